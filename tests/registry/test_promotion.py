import math

import pytest

from dept.adapters.adapter import Adapter
from infra.errors import InputError
from infra.settings import home
from registry.ledger import Ledger
from registry.promotion import champion as promotion
from registry.promotion.champion import Champion, Scores, challenge, champion, crown, keep, model_name
from registry.tracking import Tracker
from tests.registry.registry_helpers import TASK, finish, folder_of, make_spec, new_store, trained_outcome

NAME = "dept-tiny-mood"


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    new_store(home())


@pytest.fixture
def tracker():
    return Tracker()


@pytest.fixture
def ledger():
    return Ledger.open()


@pytest.fixture
def finished(tracker, ledger):
    """Makes a finished trial with the given validation (and test) accuracy."""

    def make(seed: int, validation: float, test: float = 50.0):
        spec = make_spec(task="mood", seed=seed)
        outcome = trained_outcome(
            home() / "adapters", spec, validation={"accuracy": validation}, test={"accuracy": test}
        )
        ledger.add([spec])
        finish(ledger, outcome, tracker.log_trial(None, outcome, folder_of(outcome)))
        return outcome

    return make


def versions(tracker):
    return sorted((v.version, v.tags["fingerprint"]) for v in tracker.client.search_model_versions(f"name = '{NAME}'"))


@pytest.mark.parametrize(
    ("backbone", "name"),
    [("smollm2-135m", "dept-smollm2-135m-mood"), ("google/T5 base", "dept-t5-base-mood"), ("/a/b/Tiny/", NAME)],
)
def test_model_names_are_accepted_by_mlflow(backbone, name):
    assert model_name(backbone, "mood") == name


def test_the_first_becomes_champion(tracker, ledger, finished):
    assert champion(tracker, NAME) is None
    outcome = finished(0, 75.0)
    decision = crown(tracker, ledger, outcome, TASK)
    assert (decision.decision, decision.challenger_version, decision.challenger_score) == ("first", "1", 75.0)
    found = champion(tracker, NAME)
    assert isinstance(found, Champion)
    assert (found.version, found.fingerprint, found.validation) == ("1", outcome.spec.fingerprint, 75.0)
    assert found.run_id == ledger.get(outcome.spec.fingerprint).mlflow_run_id
    assert Adapter.load(found.adapter_folder).sha256 == outcome.adapter_sha256
    version = tracker.client.get_model_version(NAME, "1")
    assert version.tags["decision.decision"] == "first"
    assert version.tags["fingerprint"] == outcome.spec.fingerprint
    model = tracker.client.get_registered_model(NAME)
    assert (model.description, model.tags["license"]) == ("Mood of a sentence.", "CC0-1.0")
    assert tracker.client.get_run(found.run_id).data.tags["registered_version"] == "1"


def test_validation_decides_and_test_never_does(tracker, ledger, finished):
    crown(tracker, ledger, finished(0, 75.0, test=60.0), TASK)
    worse = crown(tracker, ledger, finished(1, 74.0, test=99.0), TASK)
    equal = crown(tracker, ledger, finished(2, 75.0, test=99.0), TASK)
    assert (worse.decision, equal.decision) == ("kept", "kept")
    assert champion(tracker, NAME).version == "1"
    better = crown(tracker, ledger, finished(3, 76.0, test=1.0), TASK)
    assert (better.decision, better.champion_version, better.champion_score) == ("promoted", "1", 75.0)
    assert champion(tracker, NAME).version == "4"
    assert crown(tracker, ledger, finished(4, math.nan), TASK).decision == "kept"
    assert [row.decision for row in ledger.decisions(NAME)] == ["first", "kept", "kept", "promoted", "kept"]


def test_crowning_twice_changes_nothing(tracker, ledger, finished):
    first, second = finished(0, 75.0), finished(1, 80.0)
    decisions = [crown(tracker, ledger, outcome, TASK) for outcome in (first, second, first, second)]
    assert decisions[2:] == decisions[:2]
    assert len(versions(tracker)) == len(ledger.decisions(NAME)) == 2
    assert champion(tracker, NAME).version == "2"


def test_an_alias_moved_by_hand_stays(tracker, ledger, finished):
    first, second = finished(0, 75.0), finished(1, 80.0)
    for outcome in (first, second):
        crown(tracker, ledger, outcome, TASK)
    tracker.client.set_registered_model_alias(NAME, "champion", "1")
    crown(tracker, ledger, second, TASK)
    assert champion(tracker, NAME).version == "1"


@pytest.mark.parametrize(
    "broken", ["create_model_version", "set_model_version_tag", "set_registered_model_alias", "record"]
)
def test_a_kill_in_between_is_completed_by_the_next_call(tracker, ledger, finished, monkeypatch, broken):
    crown(tracker, ledger, finished(0, 75.0), TASK)
    outcome, ask, record = finished(1, 80.0), tracker.ask, ledger.record_decision

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    if broken == "record":
        monkeypatch.setattr(ledger, "record_decision", die)
    else:
        monkeypatch.setattr(tracker, "ask", lambda method, *a, **k: die() if method == broken else ask(method, *a, **k))
    with pytest.raises(KeyboardInterrupt):
        crown(tracker, ledger, outcome, TASK)
    assert champion(tracker, NAME).version == "1"
    monkeypatch.setattr(tracker, "ask", ask)
    monkeypatch.setattr(ledger, "record_decision", record)
    assert crown(tracker, ledger, outcome, TASK).decision == "promoted"
    assert len(versions(tracker)) == len(ledger.decisions(NAME)) == 2
    assert champion(tracker, NAME).version == "2"
    assert tracker.client.get_model_version(NAME, "2").tags["decision.champion_score"] == "75.0"


def test_a_store_that_was_replaced_gets_its_champion_again(tracker, ledger, finished):
    outcomes = [finished(0, 75.0), finished(1, 80.0)]
    for outcome in outcomes:
        crown(tracker, ledger, outcome, TASK)
    (home() / "other").mkdir()
    new_store(home() / "other")
    other = Tracker(f"sqlite:///{home() / 'other' / 'mlflow.db'}")
    crown(other, ledger, outcomes[0], TASK)
    assert champion(other, NAME).version == "1"
    crown(other, ledger, outcomes[1], TASK)
    assert champion(other, NAME).version == "2"


def test_a_challenger_needs_the_margin(tracker, ledger, finished):
    crown(tracker, ledger, finished(0, 75.0), TASK)
    rows = {"rows_hash": "h" * 64, "rows": 200}

    def fight(seed, old, new, margin):
        return challenge(
            tracker,
            ledger,
            NAME,
            Scores(old, **rows),
            Scores(new, **rows),
            margin,
            outcome=finished(seed, 10.0),
            task=TASK,
        )

    kept = fight(1, 70.0, 71.0, 1.0)
    assert (kept.decision, champion(tracker, NAME).version) == ("kept", "1")
    assert (kept.champion_score, kept.challenger_score, kept.margin, kept.rows) == (70.0, 71.0, 1.0, 200)
    promoted = fight(2, 70.0, 71.5, 1.0)
    assert (promoted.decision, champion(tracker, NAME).version) == ("promoted", "3")
    tags = tracker.client.get_model_version(NAME, "3").tags
    assert (tags["decision.challenger_score"], tags["decision.rows_hash"]) == ("71.5", "h" * 64)
    assert fight(3, 70.0, math.nan, 0.0).decision == "kept"
    assert fight(4, math.nan, 70.0, 5.0).decision == "promoted"
    assert fight(4, math.nan, 70.0, 5.0).at == ledger.decisions(NAME)[-1].at
    assert [row.decision for row in ledger.decisions(NAME)] == ["first", "kept", "promoted", "kept", "promoted"]


def test_unfair_challenges_are_refused(tracker, ledger, finished):
    outcome = finished(0, 75.0)
    same, other, fewer = Scores(70.0, "h" * 64, 200), Scores(80.0, "i" * 64, 200), Scores(80.0, "h" * 64, 100)
    with pytest.raises(InputError, match="no champion"):
        challenge(tracker, ledger, NAME, same, same, 1.0, outcome=outcome, task=TASK)
    crown(tracker, ledger, outcome, TASK)
    for scores in (other, fewer):
        with pytest.raises(InputError, match="different test rows"):
            challenge(tracker, ledger, NAME, same, scores, 1.0, outcome=outcome, task=TASK)
    for margin in (-1.0, math.nan):
        with pytest.raises(InputError, match="margin"):
            challenge(tracker, ledger, NAME, same, same, margin, outcome=outcome, task=TASK)
    assert len(ledger.decisions(NAME)) == 1


def test_a_champion_that_is_not_stale_is_recorded(tracker, ledger, finished):
    crown(tracker, ledger, finished(0, 75.0), TASK)
    decision = keep(ledger, champion(tracker, NAME), "mood", "nothing changed")
    assert (decision.decision, decision.champion_version, decision.reason) == ("not-stale", "1", "nothing changed")


def test_only_trials_of_the_ledger_are_crowned(tracker, ledger):
    outcome = trained_outcome(home() / "adapters", make_spec(task="mood"))
    with pytest.raises(InputError, match="not in the ledger"):
        crown(tracker, ledger, outcome, TASK)
    assert promotion.champion(tracker, NAME) is None
