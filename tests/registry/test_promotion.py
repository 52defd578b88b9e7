"""Decisions as they are recorded and carried out: ledger and MLflow, kills, deletions, decisions by hand."""

import pytest
from mlflow.exceptions import MlflowException

from registry.promotion import versions
from registry.promotion.champion import decide, evaluation, match
from registry.promotion.lookup import adapter_folder, all_champions, champion
from registry.promotion.names import model_name, old_model_name
from tests.registry.promotion_helpers import (
    ID,
    NAME,
    aliases,
    always,
    champion_now,
    half,
    mood_splits,
    never,
    numbers_of,
)


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        ("smollm2-135m", "mood-dept-smollm2-135m-0123abcd"),
        ("google/T5 base", "mood-dept-t5-base-0123abcd"),
        ("/a/b/Tiny/", "mood-dept-tiny-0123abcd"),
    ],
)
def test_names_hold_the_weights(backbone, name):
    assert model_name(backbone, "0123abcd" + "e" * 56, "mood") == name
    assert model_name(backbone, "f" * 64, "mood") != name
    _, _, short = name.removesuffix("-0123abcd").partition("-dept-")
    assert old_model_name(backbone, "mood") == f"dept-{short}-mood"


def test_the_first_becomes_champion(world):
    assert champion_now(world) is None
    outcome = world.trial()
    row = world.fight(outcome, always, always)
    assert (row.decision, row.model, row.challenger_version) == ("first", NAME, "1")
    found = champion_now(world)
    assert (found.version, found.fingerprint, found.validation) == ("1", outcome.spec.fingerprint, 75.0)
    assert found.note == ""
    assert (adapter_folder(found, world.store, None) / "adapter.safetensors").is_file()
    model = world.tracker.client.get_registered_model(NAME)
    assert (model.tags["license"], model.tags["backbone_id"]) == ("CC0-1.0", ID)
    for told in ("Mood of a sentence.", "Licence: CC0-1.0", "Data: ", "weights `bbbbbbbb`", "**Decision:** first on"):
        assert told in model.description
    assert "start: scratch" in model.description
    assert model.aliases == {"champion": 1}


def test_a_better_candidate_takes_over_and_the_audit_holds_the_numbers(world):
    first, better = world.trial(0), world.trial(1)
    world.fight(first, always, always)
    row = world.fight(better, half, always)
    assert row.decision == "promoted"
    assert champion_now(world).fingerprint == better.spec.fingerprint
    assert (row.champion_fingerprint, row.challenger_fingerprint) == (first.spec.fingerprint, better.spec.fingerprint)
    assert (row.champion_score, row.challenger_score, row.difference) == (50.0, 100.0, 50.0)
    assert row.rows == row.wins * 2 > 300
    assert 0 < row.p < row.alpha == pytest.approx(0.0325)
    assert row.low < 50 < row.high
    assert (row.margin, row.confidence, row.test, row.metric, row.looks) == (1.0, 0.95, "mcnemar", "accuracy", 0)
    assert len(row.rows_hash) == 64
    assert aliases(world) == {"champion": 2}
    tags = world.tracker.client.get_model_version(NAME, "2").tags
    assert (tags["decision.decision"], tags["decision.rows_hash"]) == ("promoted", row.rows_hash)


def test_an_equal_candidate_stays_challenger_until_the_next_decision(world):
    world.fight(world.trial(0), always, always)
    second, third = world.trial(1), world.trial(2)
    assert world.fight(second, half, half).decision == "kept"
    assert aliases(world) == {"champion": 1, "challenger": 2}
    assert world.fight(third, half, half).decision == "kept"
    assert aliases(world) == {"champion": 1, "challenger": 3}
    assert set(numbers_of(world)) == {1, 3}, "the loser of an earlier decision goes"
    fourth = world.trial(3)
    assert world.fight(fourth, half, always).decision == "promoted"
    assert aliases(world) == {"champion": 4}
    assert set(numbers_of(world)) == {1, 4}, "champions of the past stay, to be rolled back to"
    assert world.fight(third, always, half).decision == "kept"
    assert aliases(world) == {"champion": 4, "challenger": 5}


def test_every_look_spends_some_of_the_error(world):
    world.fight(world.trial(0), always, always)
    rows = [world.fight(world.trial(seed), half, half) for seed in (1, 2, 3)]
    assert [row.looks for row in rows] == [0, 1, 2]
    assert [row.alpha for row in rows] == pytest.approx([0.0325, 0.0175 / 2, 0.0175 / 6])
    assert world.fight(world.trial(9), half, always).decision == "promoted"
    assert world.fight(world.trial(10), half, half).looks == 0, "another champion"


def test_asked_again_it_is_the_same_decision(world):
    first, second = world.trial(0), world.trial(1)
    one = world.fight(first, always, always)
    two = world.fight(second, half, half)
    assert world.fight(second, never, always).id == two.id, "the same rows are asked once"
    assert world.fight(first, always, always).id == one.id
    assert len(world.ledger.decisions(NAME)) == 2
    assert set(numbers_of(world)) == {1, 2}
    assert world.fight(second, half, half, margin=2.0).id != two.id, "another question"


def test_few_rows_cannot_tell_and_spend_nothing(world):
    world.splits["mood"] = mood_splits(50)  # too few for rows that judge
    world.fight(world.trial(0, shots=None), always, always)
    row = world.fight(world.trial(1, shots=None), never, always)
    assert (row.decision, row.rows, row.p) == ("kept", 0, None)
    assert "would be needed" in row.reason
    assert row.needed > 0
    assert champion_now(world).version == "1"
    world.splits["mood"] = mood_splits()
    assert world.fight(world.trial(2), half, always).looks == 0


def test_a_champion_that_cannot_be_scored_stays(world):
    first, second = world.trial(0), world.trial(1)
    world.fight(first, always, always)
    of = match(world, second, ())
    answered = world.judged(of, {"champion": never, "challenger": always})
    gone = {key: value for key, value in answered.items() if key != of.specs[0].fingerprint}
    row = decide(world, of, gone, {of.specs[0].fingerprint: "out of memory"})
    assert (row.decision, row.p) == ("kept", None)
    assert "out of memory" in row.reason
    assert champion_now(world).fingerprint == first.spec.fingerprint


def test_an_adapter_answers_the_same_rows_once_whatever_it_stands_for(world):
    """Who wins as challenger is not asked the same rows again as champion."""
    outcome, rows = world.trial(0), world.splits["mood"].judge
    one, two = (evaluation(world, outcome, rows, role) for role in ("challenger", "champion"))
    assert one.fingerprint == two.fingerprint
    assert outcome.spec.fingerprint != outcome.spec.model_copy(update={"role": "search"}).fingerprint


def test_evaluations_have_the_rows_and_the_number_type_of_each(world):
    world.fight(world.trial(0, dtype="bfloat16"), always, always)
    candidate = world.trial(1, dtype="float32")
    of = match(world, candidate, ())
    old, new = of.specs
    assert (old.kind, old.dtype, old.role) == ("evaluate", "bfloat16", "champion")
    assert (new.kind, new.dtype, new.role) == ("evaluate", "float32", "challenger")
    assert old.row_ids == new.row_ids == tuple(row.id for row in of.rows)
    assert old.source_sha256 == world.ledger.get(of.champion.fingerprint).adapter_sha256
    assert old.fingerprint == match(world, candidate, ()).specs[0].fingerprint, "asked once"


@pytest.mark.parametrize(
    "broken",
    ["create_model_version", "record", "set_registered_model_alias", "search_model_versions", "set_model_version_tag"],
)
def test_a_kill_in_between_is_made_good(world, monkeypatch, broken):
    world.fight(world.trial(0), always, always)
    second = world.trial(1)
    of = match(world, second, ())
    answered = world.judged(of, {"champion": half, "challenger": always})
    ask, record = world.tracker.ask, world.ledger.record_decision

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    if broken == "record":
        monkeypatch.setattr(world.ledger, "record_decision", die)
    else:
        monkeypatch.setattr(
            world.tracker, "ask", lambda method, *a, **k: die() if method == broken else ask(method, *a, **k)
        )
    with pytest.raises(KeyboardInterrupt):
        decide(world, of, answered)
    monkeypatch.setattr(world.tracker, "ask", ask)
    monkeypatch.setattr(world.ledger, "record_decision", record)
    assert world.fight(second, half, always).decision == "promoted"
    assert aliases(world) == {"champion": 2}
    assert len(world.ledger.decisions(NAME)) == 2
    assert len(numbers_of(world)) == 2
    tags = world.tracker.client.get_model_version(NAME, "2").tags
    assert tags["decision.at"] == world.ledger.decisions(NAME)[-1].at.isoformat()


def test_an_alias_moved_by_hand_in_mlflow_stays(world):
    first, second = world.trial(0), world.trial(1)
    world.fight(first, always, always)
    world.fight(second, half, always)
    world.tracker.client.set_registered_model_alias(NAME, "champion", "1")
    world.fight(second, half, always)
    assert champion_now(world).fingerprint == first.spec.fingerprint


def test_weights_apart(world):
    """Two folders of one last part: neither name nor alias is shared."""
    other = "c" * 64
    one = world.trial(0)
    world.fight(one, always, always)
    spec = one.spec.model_copy(update={"backbone_id": other})
    outcome = world.finish(spec, validation={"score": 75.0, "loss": 0.5})
    assert world.fight(outcome, always, always).decision == "first"
    assert champion_now(world).fingerprint == one.spec.fingerprint
    assert champion(world.ledger, world.tracker, "mood", other).fingerprint == outcome.spec.fingerprint
    assert {model.name for model in world.tracker.client.search_registered_models()} == {
        NAME,
        "mood-dept-tiny-cccccccc",
        "all-tasks-dept-tiny-bbbbbbbb",
        "all-tasks-dept-tiny-cccccccc",
    }


def test_a_renamed_folder_of_the_same_weights_is_the_same_model(world):
    world.fight(world.trial(0), always, always)
    row = world.fight(world.trial(1, backbone="/moved/renamed"), half, always)
    assert (row.decision, row.model) == ("promoted", NAME)


def test_a_refusal_of_mlflow_is_not_taken_for_a_missing_alias(world, monkeypatch):
    def refuse(*args, **kwargs):
        raise MlflowException("no", error_code=7)  # PERMISSION_DENIED

    monkeypatch.setattr(world.tracker, "ask", refuse)
    with pytest.raises(MlflowException):
        versions.by_alias(world.tracker, NAME, "champion")


def test_champions_of_the_first_version_are_listed_until_they_are_followed(world):
    """Their decisions name no weights."""
    outcome = world.trial(0)
    about = {"challenger_fingerprint": outcome.spec.fingerprint, "challenger_version": "3", "challenger_score": 71.5}
    world.ledger.record_decision("dept-tiny-mood", "mood", "first", "no champion", **about)
    (old,) = all_champions(world.ledger, world.tracker)
    assert (old.name, old.task, old.backbone, old.backbone_id) == ("dept-tiny-mood", "mood", "tiny", "")
    assert (old.fingerprint, old.version, old.validation) == (outcome.spec.fingerprint, "3", 71.5)
    assert "`dept run`" in old.note
    assert all_champions(world.ledger, None)[0].note == old.note
    assert all_champions(world.ledger, world.tracker, ID) == []
    world.fight(world.trial(1), always, always)
    (new,) = all_champions(world.ledger, world.tracker)
    assert new.backbone_id == ID
