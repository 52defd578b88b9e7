"""The whole flow on a tiny random backbone: ledger, MLflow, registry, report, second run, both engines."""

import json

import mlflow
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from dept.adapters.adapter import Adapter
from dept.backbones.shared import shared_backbone
from flows import transfer
from flows.execution.open import open_plan
from registry.ledger import Ledger
from registry.promotion.choose import candidates
from registry.promotion.lookup import champion
from registry.serving import load_champion
from registry.store import Store
from registry.tracking import Tracker

TRIALS = 2 + 2 * (1 + 2 * 2)  # sources, then per target: untrained, and two starts for each of two seeds


def load(path):
    from flows.planning.plan_file import load_plan

    return load_plan(path)


def assert_complete(tracker, run_id, trials):
    """The page of a flow run says all there is, whoever has trained its trials."""
    run = tracker.client.get_run(run_id)
    names = {item.path for item in tracker.client.list_artifacts(run_id)}
    assert {"report.html", "accuracy.png", "loss.png", "plan.yaml", "report.json", "trials.json"} <= names
    note = run.data.tags["mlflow.note.content"]
    assert all(f"runs/{trial}?workflowType=machine_learning" in note for trial in trials)
    assert "| film | 4 |" in note
    assert "Champions:" in note
    assert (run.data.params["targets"], run.data.params["shots"]) == ("film, plot", "4")
    table = json.loads(tracker.download(f"{run.info.artifact_uri}/trials.json").read_text())
    assert len(table["data"]) == len(trials)
    assert table["columns"][:5] == ["task", "k", "seed", "start", "source"]
    assert {one.dataset.name for one in run.inputs.dataset_inputs} == {"food", "service", "film", "plot"}
    assert {tag.value for one in run.inputs.dataset_inputs for tag in one.tags} >= {"training", "validation", "test"}


def test_the_whole_way_and_a_second_run(prefect_url, make_plan, monkeypatch):
    plan = load(make_plan())
    done = transfer.run(plan)
    assert (done.trained, done.reused, done.failed) == (TRIALS, 0, {})
    every = Ledger.open().find()
    assert {row.status for row in every} == {"finished"}
    rows = [row for row in every if row.kind == "train"]
    assert len(rows) == TRIALS
    assert len(every) - len(rows) == 2 * 2 * 2  # a probe of each source on each draw
    (begun,) = Ledger.open().runs()
    assert (begun.status, begun.kind, begun.mlflow_run_id) == ("finished", "transfer", done.run_id)

    tracker = Tracker()
    runs = tracker.client.search_runs([tracker.experiment_id])
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == done.run_id]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["fingerprint"] for run in children} == {row.fingerprint for row in rows}
    transferred = next(run for run in children if run.data.params["start"] == "best-source")
    assert {"task", "backbone", "fingerprint", "attempt", "source_sha256"} <= transferred.data.tags.keys()
    assert {"test/accuracy", "test/macro_f1", "validation/accuracy", "cost/seconds", "cost/peak_memory_mib"} <= (
        transferred.data.metrics.keys()
    )
    curve = tracker.client.get_metric_history(transferred.info.run_id, "curve/train_loss")
    assert [point.step for point in curve] == list(range(4))
    times = [point.timestamp for point in sorted(curve, key=lambda point: point.step)]
    assert transferred.info.start_time <= times[0] < times[-1] <= transferred.info.end_time
    rows_of = open_plan(plan).splits[transferred.data.params["task"]].train
    assert set(transferred.data.tags["rows.training"].split(",")) < {row.id for row in rows_of}
    assert_complete(tracker, done.run_id, {run.info.run_id for run in children})
    page = done.report.read_text(encoding="utf-8")
    assert "film" in page
    assert "http://" not in page.replace("http://www.w3.org", "")

    names = {}
    for task in ("film", "plot"):
        champion_now = champion(Ledger.open(), tracker, task, rows[0].backbone_id)
        names[task] = champion_now.name
        outcomes = Ledger.open().outcomes(row.fingerprint for row in rows)
        assert champion_now.fingerprint == candidates(outcomes.values(), {task})[task].spec.fingerprint
        assert rows[0].backbone_id[:8] in champion_now.name
    texts = ["the film 5 was great", "the film 7 was awful"]
    ours = load_champion("film", plan.backbone).predict(texts)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)  # mlflow.set_tracking_uri would leak into other tests
    theirs = mlflow.pyfunc.load_model(f"models:/{names['film']}@champion").predict(pd.DataFrame({"text": texts}))
    assert list(ours["label"]) == list(theirs["label"])
    assert ours["yes"].tolist() == pytest.approx(theirs["yes"].tolist())

    again = transfer.run(plan)
    assert (again.trained, again.reused) == (0, TRIALS)
    assert_complete(tracker, again.run_id, {run.info.run_id for run in children})  # though it trained nothing
    assert len(Ledger.open().find()) == len(every)
    versions = MlflowClient(tracker.uri).search_model_versions(f"name = '{names['film']}'")
    assert len(versions) == 1


def test_prefect_knows_the_run_and_its_table(prefect_url, make_plan):
    from prefect.client.orchestration import get_client

    name = "seen-by-prefect"  # other tests' runs are on the same server
    transfer.run(load(make_plan(name=name, seeds=[0], strategies=["scratch"], sources=[])))
    with get_client(sync_client=True) as client:
        mine = [run for run in client.read_flow_runs(limit=200) if run.parameters.get("plan", {}).get("name") == name]
    assert [run.state_name for run in mine] == ["Completed"]
    from prefect.artifacts import Artifact

    artifact = Artifact.get("report-seen-by-prefect")
    assert name in artifact.data
    assert artifact.description == f"{name}: what transfer was worth"


def test_a_failed_trial_is_told_and_the_rest_goes_on(prefect_url, make_plan, capsys):
    plan = load(make_plan(seeds=[0], scratch_training={"steps": 4, "max_loss": 0.001}))
    done = transfer.run(plan)
    assert len(done.failed) == 2
    assert all("max_loss" in reason for reason in done.failed.values())
    statuses = [row.status for row in Ledger.open().find()]
    assert statuses.count("failed") == 2
    assert statuses.count("finished") == len(statuses) - 2

    again = transfer.run(plan)  # left alone until someone asks for it
    assert again.trained == 0
    assert again.failed.keys() == done.failed.keys()
    assert all("dept trials retry" in reason for reason in again.failed.values())
    assert "left alone" in capsys.readouterr().err
    attempts = {row.fingerprint: row.attempt for row in Ledger.open().find(status="failed")}
    assert Ledger.open().retry() == 2
    assert transfer.run(plan).failed.keys() == done.failed.keys()
    assert all(row.attempt > attempts[row.fingerprint] for row in Ledger.open().find(status="failed"))


def test_what_needs_a_failed_source_is_not_run_and_the_rest_goes_on(prefect_url, make_plan):
    strategies = ["scratch", "source:food", "source:service", "best-source"]
    broken = {"steps": 6, "batch_size": 4, "eval_every": 3, "max_loss": 0.001}
    done = transfer.run(load(make_plan(seeds=[0], strategies=strategies, source_training=broken)))
    assert len(done.failed) == 2
    assert {label.rpartition("/")[2] for label in done.not_run} == {"source:food", "source:service", "best-source"}
    assert set(done.not_run.values()) == {
        "the source trial of food failed",
        "the source trial of service failed",
        "the source trial of food, service failed",
    }
    tested = {row.trial_spec.variant for row in Ledger.open().find(role="target", status="finished")}
    assert tested == {"untrained", "scratch"}


def test_a_source_that_no_strategy_starts_from_is_not_trained(prefect_url, make_plan, capsys):
    done = transfer.run(load(make_plan(seeds=[0], strategies=["scratch", "source:food"])))
    assert done.trained == 1 + 2 * 3
    assert {row.task for row in Ledger.open().find(role="source")} == {"food"}
    assert "Not trained, since no strategy starts from them: service." in capsys.readouterr().err


def test_the_dtype_of_the_plan_is_that_of_the_weights(prefect_url, make_plan):
    asked = {"seeds": [0], "strategies": ["scratch"], "sources": [], "targets": ["film"]}
    for dtype in (None, "bfloat16"):
        assert not transfer.run(load(make_plan(dtype=dtype, **asked))).failed
    ledger = Ledger.open()
    outcomes = {row.trial_spec.dtype: ledger.outcome(row.fingerprint) for row in ledger.find(kind="train")}
    assert set(outcomes) == {"float32", "bfloat16"}  # trials of one type are none of the other
    adapters = [Adapter.load(Store.open().fetch(outcome.adapter_key)) for outcome in outcomes.values()]
    assert {adapter.metadata["dtype"] for adapter in adapters} == {"float32", "bfloat16"}
    assert {adapter.prompt.dtype for adapter in adapters} == {torch.float32}


def test_deepspeed_trains_the_same_trials(prefect_url, make_plan, monkeypatch, tmp_path):
    found, asked = {}, []

    def loaded(*args):
        asked.append(args)
        return shared_backbone(*args)

    monkeypatch.setattr("flows.execution.engines.shared_backbone", loaded)
    for engine in ("local", "deepspeed"):
        monkeypatch.setenv("DEPT_HOME", str(tmp_path / engine))
        done = transfer.run(
            load(make_plan(engine=engine, dtype="float32", seeds=[0], strategies=["scratch", "mixture"]))
        )
        assert not done.failed
        assert bool(asked) == (engine == "local")  # else no process but the ranks holds the backbone
        asked.clear()
        # By label: a transfer trial's fingerprint holds the bits of its source, which ranks round differently.
        store = Store.open()
        found[engine] = {
            row.trial_spec.label: (row, Adapter.load(store.fetch(row.adapter_key)))
            for row in Ledger.open().find(kind="train")
        }
    assert found["local"].keys() == found["deepspeed"].keys()
    for label, (local, ours) in found["local"].items():
        sharded, theirs = found["deepspeed"][label]
        for name in ("prompt", "a", "b"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-4, rtol=0)
        losses = [torch.tensor([loss for _, loss in row.outcome["loss_curve"]]) for row in (local, sharded)]
        torch.testing.assert_close(*losses, atol=1e-4, rtol=0)
