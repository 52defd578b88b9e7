"""What the ledger keeps: trials, runs, numbers, own tasks."""

import json
import math

import pytest
from sqlalchemy import select, text, update

from dept.trial import SCHEMA
from infra.errors import InputError
from infra.identity import process_id
from infra.settings import home
from registry.ledger import Ledger
from registry.ledger.schema import RunTrialRow, TrialRow
from tests.registry.ledger_helpers import claim_one, finish, make_outcome, make_spec


def test_the_default_is_a_file_in_home_or_the_settings_url(monkeypatch, tmp_path):
    opened = Ledger.open()
    assert (home() / "ledger.db").is_file()
    with opened.engine.connect() as connection:
        found = [
            connection.exec_driver_sql(f"pragma {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        ]
    assert found == ["wal", 1, 30_000]
    monkeypatch.setenv("DEPT_LEDGER_URL", f"sqlite:///{tmp_path / 'other.db'}")
    assert Ledger.open().engine.url.database == str(tmp_path / "other.db")


def test_add_is_idempotent_and_never_resets(ledger):
    spec = make_spec()
    finish(ledger, make_outcome(spec))
    assert ledger.add([spec, make_spec(seed=1), make_spec(seed=1)]) == 1
    rows = ledger.find()
    assert [row.seed for row in rows] == [0, 1]
    assert [row.status for row in rows] == ["finished", "pending"]
    assert rows[0].trial_spec == spec
    assert ledger.add([]) == 0


def test_the_way_of_a_trial(ledger):
    spec = make_spec()
    key = spec.fingerprint
    claim = claim_one(ledger, spec)
    row = ledger.get(key)
    assert (row.status, row.owner, row.attempt, claim.attempt) == ("running", process_id(), 1, 1)
    assert row.lease_until > row.updated_at
    with pytest.raises(InputError, match="no result: it is running"):
        ledger.outcome(key)
    outcome = make_outcome(spec)
    assert ledger.trained(claim, outcome, {"device": "cpu", "host": "here"})
    assert ledger.get(key).status == "trained"
    outcome.test = {"accuracy": 99.0}
    assert ledger.finish(claim, "run-1", outcome)
    row = ledger.get(key)
    assert (row.status, row.owner, row.lease_until, row.mlflow_run_id) == ("finished", None, None, "run-1")
    assert row.provenance == {"device": "cpu", "host": "here"}
    assert row.finished_at >= row.created_at
    assert ledger.outcome(key) == outcome
    assert ledger.outcomes(["f" * 64, key, key]) == {key: outcome}
    assert ledger.by_sha256(outcome.adapter_sha256).fingerprint == key
    assert ledger.by_sha256("0" * 64) is None
    later = make_spec(teacher_sha256="e" * 64)  # distilled from it, and still its start: the same adapter
    ledger.finish(claim_one(ledger, later), "run-2", make_outcome(later))
    with ledger.engine.begin() as connection:
        connection.execute(update(TrialRow).where(TrialRow.fingerprint == key).values(schema_version=1))
    assert ledger.by_sha256(outcome.adapter_sha256).fingerprint == key


def test_many_at_once_are_written_as_one_by_one(ledger):
    specs = [make_spec(seed=seed) for seed in range(3)]
    ledger.add(specs)
    claims = ledger.claim(process_id())
    assert [claim.spec for claim in claims] == specs
    ledger.forget([specs[1].fingerprint])
    outcomes = [make_outcome(spec, validation={"accuracy": float(spec.seed)}) for spec in specs]
    left = {specs[0].fingerprint, specs[2].fingerprint}
    assert ledger.trained_many([(c, o, {"n": o.spec.seed}) for c, o in zip(claims, outcomes, strict=True)]) == left
    assert ledger.finish_many([(c, f"run-{o.spec.seed}", o) for c, o in zip(claims, outcomes, strict=True)]) == left
    rows = ledger.find()
    assert [(row.seed, row.mlflow_run_id, row.provenance) for row in rows] == [
        (0, "run-0", {"n": 0}),
        (2, "run-2", {"n": 2}),
    ]
    assert [ledger.outcome(row.fingerprint).validation["accuracy"] for row in rows] == [0.0, 2.0]


def test_runs_know_their_trials(ledger):
    one = ledger.begin_run("demo", {"shots": [4]}, mlflow_run_id="m")
    two = ledger.begin_run("night", {}, "retrain")
    specs = [make_spec(seed=seed) for seed in range(4)]
    assert ledger.add(specs[:2], one, "sources") == 2
    assert ledger.add(specs[1:3], one, "targets") == 1
    assert ledger.add(specs[1:3], one, "targets") == 0
    assert ledger.add(specs[3:], two, "targets") == 1
    assert ledger.counts(one) == {"pending": 3}
    assert ledger.counts() == {"pending": 4}
    assert (ledger.left(one), ledger.left(one, "sources"), ledger.left(two, "sources")) == (3, 2, 0)
    finish(ledger, make_outcome(specs[1]))
    ledger.release(claims := ledger.claim(process_id(), run_id=one, stage="targets"))
    assert [claim.spec.seed for claim in claims] == [2]
    (claim,) = ledger.claim(process_id(), run_id=one, stage="targets")
    ledger.fail(claim, "loss exploded")
    assert ledger.counts(one, "targets") == {"finished": 1, "failed": 1}
    assert ledger.left(one, "targets") == 0
    assert {row.fingerprint: row.error for row in ledger.find(run_id=one, status="failed")} == {
        specs[2].fingerprint: "loss exploded"
    }
    assert [row.seed for row in ledger.find(run_id=one, stage="targets")] == [1, 2]
    ledger.end_run(one)
    ledger.end_run(one, "failed")  # it has ended already
    first, second = ledger.run(one), ledger.run(two)
    assert (first.status, first.plan, first.mlflow_run_id, first.kind) == ("finished", {"shots": [4]}, "m", "transfer")
    assert first.ended_at >= first.started_at
    assert (second.status, second.owner, second.kind) == ("running", process_id(), "retrain")
    assert [row.run_id for row in ledger.runs()] == [two, one]
    assert [row.run_id for row in ledger.runs("finished", limit=5)] == [one]
    with pytest.raises(InputError, match="no run"):
        ledger.add(specs, "f" * 32, "x")


def test_two_ways_to_one_trial_are_two_labels(ledger):
    """Provenance is not in the fingerprint: best-source and source:NAME may be the same question."""
    common = {"start": "source", "source_sha256": "5" * 64, "source_task": "amazon"}
    specs = [make_spec(init=init, **common) for init in ("best-source", "source")]
    run = ledger.begin_run("demo", {})
    assert ledger.add(specs, run, "targets") == 1
    (claim,) = ledger.claim(process_id(), run_id=run)
    ledger.fail(claim, "no")
    labels = ledger._read(lambda session: list(session.scalars(select(RunTrialRow.label))))
    assert sorted(labels) == sorted(spec.label for spec in specs)
    assert ledger.counts(run) == {"failed": 1}


def test_find_filters_limits_and_orders(ledger):
    ledger.add(
        [
            make_spec(task=task, role=role, init=init, seed=seed, kind=kind)
            for task, role, init, seed, kind in (
                ("a", "source", "scratch", 0, "train"),
                ("a", "target", "best-source", 0, "train"),
                ("b", "target", "best-source", 1, "evaluate"),
            )
        ]
    )
    assert len(ledger.find()) == 3
    assert {row.task for row in ledger.find(role="target")} == {"a", "b"}
    assert [row.task for row in ledger.find(init="best-source", task="b")] == ["b"]
    assert [row.task for row in ledger.find(kind="evaluate")] == ["b"]
    assert ledger.find(status="finished") == []
    assert ledger.find(backbone="other") == []
    assert len(ledger.find(backbone_id="b" * 64, backbone="tiny", status="pending", limit=2)) == 2
    assert [row.task for row in ledger.find(newest_first=True, limit=1)] == ["b"]
    created = ledger.find()[0].created_at
    assert len(ledger.find(since=created)) == 3
    assert ledger.find(since=created.replace(year=created.year + 1)) == []
    assert [row.seed for row in ledger.find(outcomes=False)] == [0, 0, 1]


def test_numbers_come_back_even_nan_and_wide_ones(ledger):
    spec = make_spec(seed=2**31 + 5)
    outcome = make_outcome(
        spec,
        validation={"accuracy": math.nan, "loss": math.inf},
        loss_curve=[(1, -math.inf), (2, 0.5)],
        extra={"note": "a", "rate": 0.5, "rows": [1, -1, "text"]},
        tokens=2**40,
    )
    finish(ledger, outcome)
    with ledger.engine.connect() as connection:
        stored = connection.execute(text("select cast(outcome as text) from dept_trials")).scalar()
    json.loads(stored, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    back = ledger.outcome(spec.fingerprint)
    assert math.isnan(back.validation["accuracy"])
    assert back.validation["loss"] == math.inf
    assert back.loss_curve == [(1, -math.inf), (2, 0.5)]
    assert (back.extra, back.tokens, back.spec.seed) == (outcome.extra, 2**40, 2**31 + 5)
    with ledger.engine.connect().execution_options(immediate=True) as connection, connection.begin():
        connection.execute(update(TrialRow).values(attempt=2**40, status="pending"))
    (claim,) = ledger.claim(process_id())
    assert claim.attempt == 2**40 + 1


def test_unknown_trials_and_foreign_outcomes_are_refused(ledger):
    claim, other = claim_one(ledger, make_spec()), make_outcome(make_spec(seed=9))
    assert ledger.get("f" * 64) is None
    for call in (
        lambda: ledger.outcome("f" * 64),
        lambda: ledger.trained(claim, other),
        lambda: ledger.finish(claim, "run", other),
    ):
        with pytest.raises(InputError, match="ledger: "):
            call()
    assert not ledger.heal("f" * 64, "x")


def test_rows_that_this_version_cannot_read_are_told_not_raised(ledger):
    good, bad, newer = make_spec(), make_spec(seed=1), make_spec(seed=2)
    ledger.add([good, bad, newer])
    with ledger.engine.connect().execution_options(immediate=True) as connection, connection.begin():
        body = {**bad.model_dump(mode="json"), "method": "telepathy"}
        connection.execute(update(TrialRow).where(TrialRow.seed == 1).values(spec=body))
        connection.execute(update(TrialRow).where(TrialRow.seed == 2).values(schema_version=99))
    rows = ledger.find()
    assert [row.unreadable is None for row in rows] == [True, False, True]
    assert "method" in rows[1].unreadable
    assert "\n" not in rows[1].unreadable
    with pytest.raises(InputError, match=r"spec of trial .* cannot be read: method.*forget"):
        _ = rows[1].trial_spec
    assert [claim.spec.seed for claim in ledger.claim(process_id())] == [0]
    failed = ledger.get(bad.fingerprint)
    assert (failed.status, failed.error) == ("failed", rows[1].unreadable)
    assert ledger.claim(process_id()) == []
    assert ledger.get(newer.fingerprint).status == "pending"  # for a worker that knows its layout


def test_older_layouts_are_worked_on_while_they_ask_the_same(ledger, monkeypatch):
    same, other = make_spec(), make_spec(seed=1)
    ledger.add([same, other])
    with ledger.engine.connect().execution_options(immediate=True) as connection, connection.begin():
        changed = {**other.model_dump(mode="json"), "test_rows": 7}  # as if a newer version read it so
        connection.execute(update(TrialRow).where(TrialRow.seed == 1).values(spec=changed))
    monkeypatch.setattr("registry.ledger.claims.SCHEMA", SCHEMA + 1)
    (claim,) = ledger.claim(process_id())
    assert claim.spec == same
    ledger.finish(claim, "run", make_outcome(same))
    assert ledger.heal(same.fingerprint, "its file is gone")
    row = ledger.get(other.fingerprint)
    assert row.status == "failed", "nobody waits for it for ever"
    assert "run its plan again" in row.error


def test_own_tasks_are_remembered_newest_first(ledger):
    ledger.remember_tasks({"mood": {"version": 1}, "food": {"version": 1}})
    ledger.remember_tasks({"mood": {"version": 2}}, {"mood": "a" * 64})
    found = ledger.own_tasks()
    assert {name: (row.block, row.rows_sha256) for name, row in found.items()} == {
        "mood": ({"version": 2}, "a" * 64),
        "food": ({"version": 1}, ""),
    }
    ledger.remember_tasks({"mood": {"version": 1}})  # the older block again: it is the newest now
    assert ledger.own_tasks()["mood"].block == {"version": 1}
    assert ledger.forget_tasks(["mood"]) == 2
    assert set(ledger.own_tasks()) == {"food"}
    ledger.remember_tasks({})
