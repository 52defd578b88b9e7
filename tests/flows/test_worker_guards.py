"""Workers that come late, wait for what others make, or meet what has changed: nothing good is thrown away."""

import shutil
import time

import pytest

from flows.execution import record, training, work
from flows.execution.heal import heal, look, say_lost_runs
from flows.execution.lease import Lease, LeaseLostError
from flows.execution.settle import settle, work_here
from flows.planning.trials import source_specs
from infra.identity import process_id
from registry.promotion.champion import evaluation
from tasks.load import load_splits

OTHER = "elsewhere:1:2:3:4"


def runs_of(context):
    found = context.tracker.client.search_runs([context.tracker.experiment_id], "tags.kind = 'trial'")
    return sorted(run.data.tags["fingerprint"] for run in found)


def lose(context, outcome):
    shutil.rmtree(context.store.fetch(outcome.adapter_key))


def test_a_result_made_meanwhile_is_not_thrown_away(begin):
    context, plan = begin(strategies=["source:food"], sources=["food"])
    (spec,) = source_specs(plan, context.inputs)
    (old,) = settle(context, "sources", [spec]).outcomes
    lose(context, old)
    assert look(context, [old]) == [spec.fingerprint]
    (new,) = settle(context, "sources", [spec]).outcomes
    assert new.adapter_key != old.adapter_key
    heal(context, old, "a run that looked before")
    row = context.ledger.get(spec.fingerprint)
    assert (row.status, row.adapter_key) == ("finished", new.adapter_key)


@pytest.mark.parametrize("who", ["this process", "another run's worker", "another process", "an earlier run"])
def test_a_run_counts_as_trained_what_its_own_worker_did(begin, monkeypatch, who):
    context, plan = begin(strategies=["source:food"], sources=["food"])
    (spec,) = source_specs(plan, context.inputs)
    workers = work_here
    if who == "another run's worker":
        other, _ = begin(strategies=["source:food"], sources=["food"])
        other.ledger.add([spec], other.run_id, "sources")
        workers = lambda _: work_here(other)  # noqa: E731
    elif who == "another process":
        context.ledger.add([spec], context.run_id, "sources")
        told = record.provenance
        monkeypatch.setattr(record, "provenance", lambda context: {**told(context), "pid": 1})
        assert work_here(context)
    elif who == "an earlier run":
        settle(begin(strategies=["source:food"], sources=["food"])[0], "sources", [spec])
    done = settle(context, "sources", [spec], workers)
    counted = {"this process": (1, 0), "an earlier run": (0, 0)}.get(who, (0, 1))
    assert (len(done.trained), len(done.others)) == counted


def judged(begin):
    """A run with a lost source that another worker makes anew, and an evaluation of it."""
    context, plan = begin(strategies=["source:food"], sources=["food"])
    (spec,) = source_specs(plan, context.inputs)
    (outcome,) = settle(context, "sources", [spec]).outcomes
    lose(context, outcome)
    look(context, [outcome])
    theirs = context.ledger.claim(OTHER, run_id=context.run_id, lease_seconds=600)
    assert [claim.fingerprint for claim in theirs] == [spec.fingerprint]
    asked = evaluation(context, outcome, context.splits["food"].test[:5], "champion")
    context.ledger.add([asked], context.run_id, "judge")
    return context, plan, asked.fingerprint, theirs


def test_an_evaluation_waits_for_the_adapter_that_another_worker_makes(begin):
    context, _, asked, theirs = judged(begin)
    for _ in range(3):
        assert work_here(context) == 0
    row = context.ledger.get(asked)
    assert (row.status, row.attempt, row.error) == ("pending", 1, None)
    context.ledger.release(theirs)
    assert work_here(context)
    assert context.ledger.get(asked).status == "finished"


def test_what_nobody_makes_any_more_is_not_waited_for(begin):
    context, _, asked, theirs = judged(begin)
    assert work_here(context) == 0
    context.ledger.fail(theirs[0], "its rows are gone")
    assert work_here(context)
    row = context.ledger.get(asked)
    assert row.status == "failed"
    assert "is not in the ledger" in row.error


def test_an_evaluation_is_of_the_rows_that_it_was_planned_with(begin, tmp_path):
    """Rows of a file are known by their number: a file that was edited has others under the same ids."""
    context, plan = begin(strategies=["source:food"], sources=["food"])
    (outcome,) = settle(context, "sources", source_specs(plan, context.inputs)).outcomes
    asked = evaluation(context, outcome, context.splits["food"].test[:5], "champion")
    file = tmp_path / "food.csv"
    file.write_text(file.read_text().replace("food", "bread"))
    context.splits = {**context.splits, "food": load_splits(context.tasks["food"])}
    (reason,) = settle(context, "judge", [asked]).failed.values()
    assert "its rows have changed" in reason


def test_those_that_wait_do_not_starve_the_others(begin, monkeypatch):
    monkeypatch.setattr(work, "GROUP", 1)
    context, plan, asked, _ = judged(begin)
    (spec,) = source_specs(plan, context.inputs)
    ready = spec.model_copy(update={"seed": 7})
    context.ledger.add([ready], context.run_id, "targets")
    assert work_here(context) == 1
    assert context.ledger.get(ready.fingerprint).status == "finished"
    assert context.ledger.get(asked).status == "pending"


@pytest.mark.parametrize("renewed", [True, False])
def test_a_worker_that_lost_its_trials_writes_no_run(begin, monkeypatch, renewed):
    context, plan = begin(strategies=["source:food"], sources=["food"])
    specs = source_specs(plan, context.inputs)
    context.ledger.add(specs, context.run_id, "sources")
    claims = context.ledger.claim(process_id(), run_id=context.run_id, lease_seconds=600)
    lease = Lease(context.ledger, claims, 600)
    late = training.train_claims(context, lease, claims)
    context.ledger.renew(claims, 0.001)
    time.sleep(0.1)
    taken = context.ledger.claim(OTHER, run_id=context.run_id, lease_seconds=600)
    record.close(context, Lease(context.ledger, taken, 600), [(claim, claim.outcome) for claim in taken])
    before = [(row.attempt, row.mlflow_run_id) for row in context.ledger.find()]
    assert before[0][0] == 2
    if not renewed:  # as if it were stopped just after
        monkeypatch.setattr(Lease, "held", lambda self, claims: {claim.fingerprint for claim in claims})
    with pytest.raises(LeaseLostError):
        record.close(context, lease, late)
    assert [(row.attempt, row.mlflow_run_id) for row in context.ledger.find()] == before
    assert runs_of(context) == [spec.fingerprint for spec in specs]


def test_runs_that_mlflow_has_lost_are_said(begin, capsys):
    context, plan = begin(sources=["food"], strategies=["source:food"])
    (outcome,) = settle(context, "sources", source_specs(plan, context.inputs)).outcomes
    say_lost_runs(context, ())
    assert "MLflow" not in capsys.readouterr().err
    row = context.ledger.get(outcome.spec.fingerprint)
    context.tracker.client.delete_run(row.mlflow_run_id)
    say_lost_runs(context, {row.fingerprint})  # logged just now, by this run
    assert "MLflow" not in capsys.readouterr().err
    say_lost_runs(context, ())
    assert "1 of 1 trials have no run in MLflow any more" in capsys.readouterr().err
