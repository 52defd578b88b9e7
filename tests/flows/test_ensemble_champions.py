"""A champion of several adapters whose files are lost or altered: another copy answers, it is healed, or it is said."""

import shutil
from pathlib import Path

import pytest

from flows import transfer
from flows.execution.heal import LostError, look, say_lost_runs
from flows.execution.settle import work_here
from infra.errors import InputError
from registry.promotion.lookup import champion
from registry.serving import load_champion

ALONE = {"sources": [], "strategies": ["scratch"], "targets": ["film"], "test_rows": 10}
TEXTS = [{"text": "the film 5 was great"}, {"text": "the film 7 was awful"}]


def crowned(begin):
    """A plan of which two adapters together are champion: context, plan, the ensemble's outcome and its answers."""
    context, plan = begin(ensemble=2, seeds=[0, 1], **ALONE)
    done = transfer.stages(context, plan, work_here)
    (row,) = transfer.register(context, done.outcomes, work_here)
    assert row["decision"].startswith("first")
    (ensemble,) = [outcome for outcome in done.outcomes if outcome.spec.kind == "ensemble"]
    return context, plan, ensemble, answers_of(plan)[0]


def answers_of(plan):
    """Probability of the second label for each text, and what is said about the champion."""
    served = load_champion("film", plan.backbone)
    return [answer.probabilities[1] for answer in served.answers(TEXTS)], served.note


def standing(context):
    return champion(context.ledger, context.tracker, "film", context.backbone_id)


def alter(folder):
    """Another member's numbers in place of one's own, by someone who mends the sums as well."""
    shutil.copyfile(folder / "1" / "adapter.safetensors", folder / "0" / "adapter.safetensors")
    shutil.copyfile(folder / "1" / "adapter.json", folder / "0" / "adapter.json")


def test_an_altered_member_does_not_answer_and_is_put_right(begin):
    context, plan, ensemble, before = crowned(begin)
    alter(context.store.fetch(ensemble.adapter_key))
    answers, note = answers_of(plan)
    assert answers == pytest.approx(before)
    assert "MLflow's copy answers" in note
    copy = Path(context.tracker.download(f"{standing(context).source}/artifacts/adapter"))
    alter(copy)
    with pytest.raises(InputError, match=r"altered.*`dept run`"):
        load_champion("film", plan.backbone)

    other, its_plan = begin(seeds=[5], **ALONE)  # the next run that meets it
    found = transfer.stages(other, its_plan, work_here)
    (row,) = transfer.register(other, found.outcomes, work_here)
    assert row["decision"].startswith("kept")
    healed = other.ledger.get(ensemble.spec.fingerprint)
    assert (healed.status, healed.adapter_sha256) == ("finished", ensemble.adapter_sha256)
    assert healed.attempt > 1
    assert standing(other).fingerprint == ensemble.spec.fingerprint
    assert answers_of(plan) == (pytest.approx(before), "")


@pytest.mark.parametrize("everything", [False, True])
def test_one_whose_member_is_lost_as_well_is_said_and_comes_back_with_its_plan(begin, everything):
    """Nobody in another run can make the member anew; the plan that trained it can."""
    context, plan, ensemble, before = crowned(begin)
    member = context.ledger.by_sha256(ensemble.spec.sources[0])
    lost = [ensemble.adapter_key, member.adapter_key]
    for key in lost:
        shutil.rmtree(context.store.fetch(key))
    if not everything:
        other, its_plan = begin(seeds=[5], **ALONE)
        found = transfer.stages(other, its_plan, work_here)
        with pytest.raises(LostError):  # noted; the run begins its stages again
            transfer.register(other, found.outcomes, work_here)
        (row,) = transfer.register(other, found.outcomes, work_here)
        assert row["decision"].startswith("kept")
        assert f"dept trials retry {ensemble.spec.fingerprint[:12]}" in row["decision"]
        other.ledger.retry([ensemble.spec.fingerprint])
    again, plan = begin(ensemble=2, seeds=[0, 1], **ALONE)
    done = transfer.stages(again, plan, work_here)
    assert done.failed == {}
    transfer.register(again, done.outcomes, work_here)
    assert standing(again).fingerprint == ensemble.spec.fingerprint
    assert not look(again, done.outcomes)
    assert answers_of(plan) == (pytest.approx(before), "")


def test_a_run_that_mlflow_has_lost_is_said_for_what_answers_together_too(begin, capsys):
    context, _, ensemble, _ = crowned(begin)
    context.tracker.client.delete_run(context.ledger.get(ensemble.spec.fingerprint).mlflow_run_id)
    say_lost_runs(context, ())
    assert "1 of 4 trials have no run in MLflow any more" in capsys.readouterr().err
