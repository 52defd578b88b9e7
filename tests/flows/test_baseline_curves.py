"""Curves of LoRA and of full fine-tuning are on MLflow's pages while these train."""

import pytest

from flows import transfer
from flows.execution import baselines
from flows.execution.settle import work_here
from registry.tracking import live
from tests.registry.test_live import wait_for

PLAN = {"methods": ["full"], "sources": [], "strategies": ["scratch"], "targets": ["film"], "seeds": [0]}


def test_a_run_is_there_while_a_baseline_trains_and_is_the_one_that_is_closed(begin, monkeypatch):
    monkeypatch.setattr(live, "AFTER", 0.05)
    monkeypatch.setattr(live, "EVERY", 0.05)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    context, plan = begin(**PLAN, beside=[], register=False)
    train, seen = baselines.train_baseline, []

    def watched(*args, **options):
        baseline = train(*args, **options)
        search = context.tracker.client.search_runs
        ours = "params.method = 'full'"  # the untrained trial may have a run with metrics before
        runs = wait_for(lambda: [r for r in search([context.tracker.experiment_id], ours) if r.data.metrics])
        seen.extend((run.info.run_id, run.info.status) for run in runs)
        return baseline

    monkeypatch.setattr(baselines, "train_baseline", watched)
    done = transfer.stages(context, plan, work_here)
    assert not done.failed
    (row,) = [row for row in context.ledger.find(kind="train") if row.trial_spec.method == "full"]
    assert seen == [(row.mlflow_run_id, "RUNNING")]
    told = context.tracker.client.get_metric_history(row.mlflow_run_id, "curve/train_loss")
    outcome = context.ledger.outcome(row.fingerprint)
    assert [(one.step, one.value) for one in told] == [pytest.approx(point) for point in outcome.loss_curve]
    assert context.begun == {}
