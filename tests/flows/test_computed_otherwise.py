"""Champions and trials of a time when their backbone was computed otherwise: judged as today, told, never remade."""

from types import SimpleNamespace

import pytest

from flows import retrain
from flows.execution.judge import judge
from flows.execution.settle import settle, work_here
from flows.planning.retraining import Retraining, reasons
from flows.planning.trials import source_specs
from registry.promotion.champion import match
from registry.promotion.lookup import champion
from tests.flows.test_judge import Run, unable, worker
from tests.registry.promotion_helpers import ID, always, half, new_world


@pytest.fixture
def world():
    made = new_world(Run)
    made.run_id = made.ledger.begin_run("judge", {}, "retrain")
    return made


def test_both_are_asked_as_the_backbone_is_computed_today(world):
    """The champion's old answers are not taken for those that it gives now, and the decision says so."""
    old = world.trial(0)
    world.fight(old, always, always)
    before = match(world, world.trial(1), ()).specs[0]
    new = world.trial(2, computed="windows")
    of = match(world, new, ())
    assert [one.computed for one in of.specs] == ["windows", "windows"]
    assert before.fingerprint != of.specs[0].fingerprint
    row = world.fight(new, half, always)
    assert row.decision == "promoted"
    assert "the champion was trained while the backbone was computed without right windows" in row.reason
    assert world.fight(world.trial(3, computed="windows"), half, half).reason.count("without right") == 0


def test_a_lost_champion_of_then_is_not_made_anew(world):
    old, new = world.trial(0), world.trial(1, computed="windows")
    judge(world, [old], worker)
    world.ledger.heal(old.spec.fingerprint, "its file is gone")
    (row,) = judge(world, [new], unable)
    assert world.ledger.get(old.spec.fingerprint).status == "pending"  # nobody was asked to make it
    assert row.decision == "kept"
    assert "`dept promote` by hand" in row.reason


def test_it_is_stale(world, monkeypatch):
    """Asked by `dept retrain`; and a challenger of today that lost makes it fresh again."""
    old = world.trial(0)
    world.fight(old, always, always)
    today = {"data_hash": "1", "task_version": 1, "backbone_id": ID, "computed": "windows"}
    spec = old.spec.model_copy(update={"data_hash": "1", "task_version": 1})
    assert reasons(spec, "1", today, 0, 9) == (["how the backbone is computed changed"], [])
    assert reasons(spec, "1", today | {"computed": None}, 0, 9) == ([], [])
    monkeypatch.setattr(world, "computed", "windows", raising=False)
    monkeypatch.setattr(retrain, "all_champions", lambda *_: [champion(world.ledger, world.tracker, "mood", ID)])
    order = Retraining(max_age_days=9)
    assert [item.reasons for item in retrain.look(world, order).stale] == [["how the backbone is computed changed"]]
    world.fight(world.trial(1, computed="windows"), always, half)
    assert retrain.look(world, order).stale == []


def test_a_pending_trial_of_then_is_refused_with_a_remedy(begin):
    context, plan = begin(strategies=["source:food"], sources=["food"])
    (spec,) = source_specs(plan, context.inputs)
    old = spec.model_copy(update={"computed": "windows"})
    context.ledger.add([old], context.run_id, "sources")
    assert work_here(context)
    row = context.ledger.get(old.fingerprint)
    assert row.status == "failed"
    assert "was computed otherwise" in row.error
    assert "Remedy: `dept run` of its plan" in row.error
    assert settle(context, "sources", [spec]).outcomes  # today's own is made


def test_predictions_say_it(monkeypatch, world):
    from registry.serving import champions

    old = world.trial(0)
    world.fight(old, always, always)
    for today, said in ((None, ""), ("windows", "was trained while its backbone was computed otherwise")):
        monkeypatch.setattr(
            champions, "describe", lambda _, today=today: SimpleNamespace(backbone_id=ID, computed=today)
        )
        monkeypatch.setattr(champions, "load_adapter", lambda *_: SimpleNamespace(metadata={}))
        monkeypatch.setattr(champions, "shared_backbone", lambda *_: None)
        monkeypatch.setattr(champions, "Predictor", lambda adapter, backbone, found: found)
        note = champions.load_champion("mood", "tiny", world.tracker).note
        assert said in note
        assert bool(said) == ("Remedy" in note)
