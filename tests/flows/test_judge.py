"""Decisions of a run in a small world without a backbone: workers here finish whatever they claim."""

from types import SimpleNamespace

import pytest

from dept.config import TrainConfig
from dept.trial import TrialOutcome
from flows import retrain
from flows.execution.challengers import renewed
from flows.execution.judge import judge
from flows.execution.stopping import Stopping
from flows.planning.retraining import Retraining, Stale
from infra.identity import process_id
from infra.settings import home
from registry.promotion.lookup import champion
from tests.registry.promotion_helpers import ID, World, new_world
from tests.registry.registry_helpers import make_outcome, save_adapter


class Run(World):
    """What `flows.execution.context.RunContext` has beside."""

    backbone_name, backbone_id, dtype, computed = "tiny", ID, "float32", None
    stopping = Stopping()


@pytest.fixture
def world():
    made = new_world(Run)
    made.run_id = made.ledger.begin_run("judge", {}, "retrain")
    return made


def worker(world):
    """Finish what the run asks for: adapters are made again as they were, answers are right."""
    claims = world.ledger.claim(process_id(), 64, run_id=world.run_id)
    rows = {row.id: row for part in world.splits["mood"].parts().values() for row in part}
    for claim in claims:
        if claim.spec.kind == "evaluate":
            said = {"rows": [rows[name].label for name in claim.spec.row_ids]}
            outcome = TrialOutcome(claim.spec, "", "", 0, 0, {}, extra=said)
        else:
            folder = home() / "again" / claim.fingerprint
            sha256 = save_adapter(folder, claim.spec, backbone_id=ID)
            world.store.put_folder(folder, claim.key)
            outcome = make_outcome(claim.spec, claim.key)
            outcome.adapter_sha256 = sha256
        world.ledger.finish(claim, "run", outcome)
    return len(claims)


def unable(world):
    """A worker that makes nothing."""
    claims = world.ledger.claim(process_id(), 64, run_id=world.run_id)
    for claim in claims:
        world.ledger.fail(claim, "the disk is full")
    return len(claims)


def champion_now(world):
    return champion(world.ledger, world.tracker, "mood", ID)


def test_a_champion_that_another_run_found_lost_is_made_again(world):
    first, second = world.trial(0), world.trial(1)
    judge(world, [first], worker)
    world.ledger.heal(first.spec.fingerprint, "its file is gone")  # and then a kill, or another run's worker
    assert world.ledger.get(first.spec.fingerprint).status == "pending"
    (row,) = judge(world, [second], worker)
    assert (row.decision, row.champion_fingerprint) == ("kept", first.spec.fingerprint)
    assert row.rows, row.reason
    assert world.ledger.get(first.spec.fingerprint).status == "finished"


def test_a_champion_that_cannot_be_made_again_is_said(world):
    first, second, third = (world.trial(seed) for seed in range(3))
    judge(world, [first], worker)
    world.ledger.heal(first.spec.fingerprint, "its file is gone")
    (row,) = judge(world, [second], unable)
    assert (row.decision, row.rows) == ("kept", None)
    assert "the disk is full" in row.reason
    assert f"dept trials retry {first.spec.fingerprint[:12]}" in row.reason
    world.ledger.retry([first.spec.fingerprint])
    (row,) = judge(world, [third], worker)
    assert row.rows


def test_a_lost_champion_can_be_stale_and_is_renewed(world):
    first = world.trial(0)
    judge(world, [first], worker)
    world.ledger.heal(first.spec.fingerprint, "its file is gone")
    found = retrain.look(world, Retraining(backbone="tiny", max_age_days=1e-9))
    assert (found.left_out, [item.task for item in found.stale]) == ({}, ["mood"])
    assert renewed(world, found.stale[0]).seed == 1


def test_only_a_comparison_answers_a_change(world):
    first, second = world.trial(0), world.trial(1)
    judge(world, [first], worker)
    today = {"data_hash": second.spec.data_hash, "task_version": 1, "backbone_id": ID}
    (row,) = judge(world, [second], unable)
    assert "could not be scored" in row.reason
    assert not retrain._answered(world, champion_now(world), today)
    world.ledger.retry()
    (row,) = judge(world, [second], worker)
    assert (row.decision, row.rows > 0) == ("kept", True)
    assert retrain._answered(world, champion_now(world), today)
    assert not retrain._answered(world, champion_now(world), today | {"data_hash": "e" * 64})


def test_the_challenger_of_an_in_context_champion_has_shots(world):
    changes = {"method": "in-context", "start": "shots", "training": TrainConfig(steps=0), "init": "scratch"}
    first = world.trial(0, **changes)
    spec = renewed(world, Stale(task="mood", fingerprint=first.spec.fingerprint, reasons=["old"], only_old=True))
    assert (spec.method, spec.start, spec.seed, spec.role) == ("in-context", "shots", 1, "challenger")
    untrained = SimpleNamespace(only_old=False, task="mood", fingerprint=world.trial(0).spec.fingerprint)
    assert renewed(world, untrained).start == "text"
    assert renewed(world, untrained).validation_rows is None
    whole = SimpleNamespace(only_old=False, task="mood", fingerprint=world.trial(1, validation_rows=7).spec.fingerprint)
    assert renewed(world, whole).validation_rows == len(world.splits["mood"].validation)


def test_the_challenger_of_a_distilled_champion_learns_from_labels(world):
    first = world.trial(0, init="ensemble", start="source", source_sha256="a" * 64, teacher_sha256="b" * 64)
    spec = renewed(world, Stale(task="mood", fingerprint=first.spec.fingerprint, reasons=["old"], only_old=True))
    assert (spec.teacher_sha256, spec.start, spec.needed, spec.variant) == (None, "text", (), "scratch")


def test_a_champion_of_the_first_version_is_said(world):
    first = world.trial(0)
    about = {"challenger_fingerprint": first.spec.fingerprint, "challenger_version": "1"}
    world.ledger.record_decision("dept-tiny-mood", "mood", "first", "no champion", **about)
    found = retrain.look(world, Retraining(backbone="tiny"))
    assert "version 0.1.0" in found.left_out["mood"]
    assert (found.stale, found.fresh) == ([], [])
