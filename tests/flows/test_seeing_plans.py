"""A plan with pictures on a backbone that reads them itself, and turns them by three axes."""

from flows.execution.settle import settle
from flows.planning.trials import source_specs
from tests.flows.test_picture_plans import body_of, cache, plan_of
from tests.seeing import save_seeing

__all__ = ["cache"]


def test_it_learns_what_only_its_eyes_can_tell(tmp_path, begin):
    folder = save_seeing(tmp_path / "tiny-qwen2_5_vl", "qwen2_5_vl")
    context, plan = begin(**body_of(plan_of(tmp_path, folder, adapter={"m": 4, "r": 2, "s": 24}, targets=["hidden"])))
    (outcome,) = settle(context, "sources", source_specs(plan, context.inputs)).outcomes
    assert outcome.validation["accuracy"] > 90, "lightness is all there is to see"
