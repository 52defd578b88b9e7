"""Retraining of champions that see pictures: challenged like others, and judged on rows with their pictures."""

import contextlib
import shutil

import pytest
import torch
import transformers

from dept.backbones import picture_encoder
from flows import retrain, transfer
from flows.begun import begun
from flows.execution.champions import open_retraining
from flows.execution.own_tasks import remember
from flows.execution.settle import settle, work_here
from flows.planning.trials import target_specs
from infra.errors import InputError
from registry.ledger import Ledger
from registry.serving import load_champion
from tests.dept.test_picture_encoder import KINDS, encoder_at
from tests.flows.test_picture_plans import body_of, cache, plan_of
from tests.flows.test_retrain import order
from tests.seeing import save_seeing

__all__ = ["cache"]


@pytest.fixture
def champions(tmp_path, begin, monkeypatch):
    """Train and register champions of a plan, and return what looks at them anew."""
    monkeypatch.setattr(retrain, "step", lambda name, body, **_: body())

    def make(backbone, seen, **changes):
        shape = {"m": 4, "r": 2, "s": 24, **({"pictures": seen} if seen else {})}
        plan = plan_of(tmp_path, backbone, strategies=["scratch"], sources=[], adapter=shape, **changes)
        context, plan = begin(**body_of(plan))
        remember(context, plan)
        done = settle(context, "targets", target_specs(plan, context.inputs, {}))
        assert not done.failed
        transfer.register(context, done.outcomes, work_here)

        def again(**wanted):
            asked = order(plan, **wanted)
            opened, left_out = open_retraining(asked)
            with contextlib.ExitStack() as stack:
                stack.enter_context(begun(opened, "retrain", "retrain"))
                found = retrain.look(opened, asked)
                found.left_out |= left_out
                decided = retrain._challenged(opened, asked, found.stale, work_here) if found.stale else ([], {})
            return found, *decided

        return again

    return make


def test_an_old_champion_of_pictures_is_challenged_though_its_files_are_gone(tmp_path, champions):
    """Rows and pictures lie in the store then; the backbone sees them by itself."""
    again = champions(save_seeing(tmp_path / "llava", "llava"), None, targets=["mine"])
    shutil.rmtree(tmp_path / "mine")
    found, _, failed = again(max_age_days=1e-9)
    assert (failed, found.left_out) == ({}, {})
    record = Ledger.open().decisions(task="mine")[-1]
    assert record.rows > 10
    assert record.champion_score > 90, "lightness is all there is to see"


def test_another_picture_encoder_makes_a_champion_stale(tmp_path, tiny_folders, champions):
    """It cannot be scored by others' states, so it stays until a person says otherwise."""
    folder, ledger = tmp_path / "clip", Ledger.open()
    again = champions(tiny_folders["llama"], {"grid": 2, "encoder": encoder_at(folder)})
    first = {row.task: row.challenger_fingerprint for row in ledger.decisions()}
    assert len(again()[0].fresh) == 2
    torch.manual_seed(99)
    transformers.AutoModel.from_config(KINDS["clip"]).eval().save_pretrained(folder)
    picture_encoder._loaded.cache_clear()
    picture_encoder._kept.cache_clear()
    found, _, failed = again()
    assert [(one.task, one.reasons) for one in found.stale] == [("mine", ["picture encoder changed"])]
    assert (failed, found.left_out) == ({}, {})
    record = ledger.decisions(task="mine")[-1]
    assert record.reason.startswith("the champion could not be scored, the champion stays: adapter.pictures: encoder ")
    assert record.reason.endswith("its files are not those that the trial was planned with. Remedy: the same files, or "
                                  "run the plan again; or `dept promote` by hand")  # fmt: skip
    specs = [ledger.get(one).trial_spec for one in (first["mine"], record.challenger_fingerprint)]
    assert len({spec.adapter.pictures.encoder_id for spec in specs}) == 2
    with pytest.raises(InputError, match="its files are not those that the trial was planned with"):
        load_champion("mine", str(tiny_folders["llama"]))
    shutil.rmtree(folder)
    found, *_ = again(max_age_days=1e-9, tasks=["mine"])
    assert (found.stale, list(found.left_out)) == ([], ["mine"])
    assert found.left_out["mine"].endswith("clip: no such folder")
