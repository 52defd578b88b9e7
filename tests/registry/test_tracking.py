import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request

import pytest

from dept.adapters.adapter import Adapter
from infra.errors import InputError
from infra.identity import process_id
from infra.settings import home
from registry.ledger import Ledger
from registry.promotion.champion import champion, crown
from registry.tracking import Tracker, flatten
from tests.registry.registry_helpers import TASK, finish, folder_of, make_spec, new_store, trained_outcome


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    new_store(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--backend-store-uri",
            f"sqlite:///{folder / 'mlflow.db'}",
            "--artifacts-destination",
            str(folder / "files"),
            "--port",
            str(port),
            "--workers",
            "1",
        ],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    uri, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 90
    try:
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=2)
                break
            except OSError:
                assert process.poll() is None, "the MLflow server ended"
                assert time.monotonic() < deadline, "the MLflow server did not answer within 90 s"
                time.sleep(0.2)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(params=["sqlite", "server"])
def tracker(request):
    if request.param == "server":
        return Tracker(request.getfixturevalue("server"), experiment=f"x{time.monotonic_ns()}")
    new_store(home())
    return Tracker()


@pytest.fixture
def local():
    new_store(home())
    return Tracker()


def test_a_trial_is_written_in_full(tracker, tmp_path):
    spec = make_spec(init="best-source", source_task="amazon-polarity", source_sha256="c" * 64)
    outcome = trained_outcome(
        tmp_path,
        spec,
        loss_curve=[(step, 3.0 / step) for step in range(1, 1200)],
        validation={"accuracy": 75.0, "loss": math.nan},
    )
    parent = tracker.open_flow_run("flow", {"plan": "demo", "long": "x" * 9000, "none": None}, {"plan": "demo"})
    run_id = tracker.log_trial(parent, outcome, folder_of(outcome), {"registered_model": "m"})
    run = tracker.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "movie-polarity/k16/s0/best-source:amazon-polarity"
    wanted = {
        "task": "movie-polarity",
        "shots": "16",
        "seed": "0",
        "init": "best-source",
        "backbone": "tiny",
        "fingerprint": spec.fingerprint,
        "parent_adapter": "c" * 64,
        "mlflow.parentRunId": parent,
        "registered_model": "m",
    }
    assert wanted.items() <= run.data.tags.items()
    wanted = {
        "m": "10",
        "r": "4",
        "s": "96",
        "alpha": "8.0",
        "layout": "adjacent",
        "steps": "60",
        "batch_size": "8",
        "lr_prompt": "0.01",
        "lr_low_rank": "0.001",
        "source_task": "amazon-polarity",
        "shots": "16",
    }
    assert wanted.items() <= run.data.params.items()
    assert run.data.metrics["test/accuracy"] == 70.5
    assert run.data.metrics["validation/accuracy"] == 75.0
    assert math.isnan(run.data.metrics["validation/loss"])
    assert run.data.metrics["cost/peak_memory_mib"] == 512.0
    assert {"cost/seconds", "cost/tokens_per_second", "cost/trainable"} <= run.data.metrics.keys()
    curve = tracker.client.get_metric_history(run_id, "train/loss")
    assert sorted((point.step, point.value) for point in curve) == outcome.loss_curve
    assert [(p.step, p.value) for p in tracker.client.get_metric_history(run_id, "validation/curve")] == [(20, 75.0)]
    files = {file.path for file in tracker.client.list_artifacts(run_id, "adapter")}
    assert files >= {"adapter/adapter.safetensors", "adapter/adapter.json"}
    again = tracker.download(f"{run.info.artifact_uri}/adapter", tmp_path / "again")
    assert (again / "adapter.json").read_bytes() == (folder_of(outcome) / "adapter.json").read_bytes()
    (tmp_path / "report.html").write_text("<p>")
    tracker.close_flow_run(parent, "FINISHED", {"trials": 1}, [tmp_path / "report.html", folder_of(outcome)])
    closed = tracker.client.get_run(parent)
    assert (closed.info.status, closed.data.metrics["trials"], closed.data.params["plan"]) == ("FINISHED", 1.0, "demo")
    assert "none" not in closed.data.params
    assert {"report.html", spec.fingerprint} <= {file.path for file in tracker.client.list_artifacts(parent)}
    assert tracker.log_trial("another", outcome, folder_of(outcome)) == run_id


def test_champions_live_on_a_server_too(server, tmp_path):
    tracker, ledger, outcome = Tracker(server), Ledger.open(), trained_outcome(tmp_path, make_spec(task="mood"))
    ledger.add([outcome.spec])
    finish(ledger, outcome, tracker.log_trial(None, outcome, folder_of(outcome)))
    for _ in range(2):
        assert crown(tracker, ledger, outcome, TASK).decision == "first"
    found = champion(tracker, "dept-tiny-mood")
    assert found.version == "1"
    assert found.adapter_folder.is_relative_to(home() / "champions")
    assert Adapter.load(found.adapter_folder).sha256 == outcome.adapter_sha256
    assert tracker.link(found.run_id).startswith(f"{server}/#/experiments/")


def test_what_a_killed_process_left_is_written_anew(local, tmp_path):
    outcome = trained_outcome(tmp_path, make_spec())
    key = outcome.spec.fingerprint
    left = local.client.create_run(local.experiment_id, tags={"fingerprint": key}).info.run_id
    run_id = local.log_trial(None, outcome, folder_of(outcome))
    old = local.client.get_run(left)
    assert (old.info.status, old.info.lifecycle_stage) == ("KILLED", "deleted")
    assert [run.info.run_id for run in local.client.search_runs([local.experiment_id])] == [run_id]
    assert "mlflow.parentRunId" not in local.client.get_run(run_id).data.tags


def test_flow_runs_of_killed_processes_are_closed(local):
    host, pid, _ = process_id().rsplit(":", 2)
    tags = {"kind": "flow", "owner": f"{host}:{pid}:1"}
    dead = local.client.create_run(local.experiment_id, tags=tags).info.run_id
    alive = local.open_flow_run("first", {}, {})
    local.open_flow_run("second", {}, {})
    assert local.client.get_run(dead).info.status == "KILLED"
    assert local.client.get_run(alive).info.status == "RUNNING"


def test_the_store_lies_in_home_in_wal_mode(local):
    with sqlite3.connect(home() / "mlflow.db") as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    place = local.client.get_experiment(local.experiment_id).artifact_location
    assert place == (home() / "artifacts").as_uri()
    assert local.link("x") is None
    local.client.delete_experiment(local.experiment_id)
    assert Tracker().experiment_id == local.experiment_id
    assert local.client.get_experiment(local.experiment_id).lifecycle_stage == "active"


def test_processes_may_open_a_new_store_at_once():
    children = [
        subprocess.Popen(
            [sys.executable, "-c", "from registry.tracking import Tracker\nprint(Tracker().experiment_id)"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    answers = [child.communicate(timeout=120)[0].strip() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert len(set(answers)) == 1


def test_telemetry_is_off_before_mlflow_is_imported():
    names = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    clean = {key: value for key, value in os.environ.items() if key not in names}
    code = (
        f"import registry, sys, os\nassert 'mlflow' not in sys.modules\nprint([os.environ[name] for name in {names}])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], env=clean, text=True) == "['true', 'true']\n"


def test_a_dead_server_is_named_within_seconds():
    start = time.monotonic()
    with pytest.raises(InputError, match=r"does not answer.*start the server.*safe in the ledger"):
        Tracker("http://127.0.0.1:9")
    assert time.monotonic() - start < 30


def test_a_store_that_falls_silent_is_named_and_nothing_is_lost(local, tmp_path, monkeypatch):
    outcome = trained_outcome(tmp_path, make_spec())
    uri = local.client.tracking_uri
    dead = Tracker.__new__(Tracker)
    dead.__dict__.update(local.__dict__)
    from mlflow import MlflowClient

    dead.client = MlflowClient(tracking_uri="http://127.0.0.1:9", registry_uri="http://127.0.0.1:9")
    with pytest.raises(InputError, match="does not answer"):
        dead.log_trial(None, outcome, folder_of(outcome))
    assert folder_of(outcome).is_dir()
    assert Tracker(uri).log_trial(None, outcome, folder_of(outcome))


@pytest.mark.parametrize(
    ("uri", "message"), [("ftp://x", "no tracking URI"), ("mlruns", "no tracking URI"), ("sqlite://", "names no file")]
)
def test_a_bad_uri_is_named(uri, message):
    with pytest.raises(InputError, match=message):
        Tracker(uri)


def test_a_damaged_store_is_named(tmp_path):
    (tmp_path / "bad.db").write_bytes(b"not a database" * 400)
    with pytest.raises(InputError, match="cannot be opened"):
        Tracker(f"sqlite:///{tmp_path / 'bad.db'}")


def test_an_adapter_that_is_gone_is_named(local, tmp_path):
    outcome = trained_outcome(tmp_path, make_spec())
    with pytest.raises(InputError, match="is gone"):
        local.log_trial(None, outcome, tmp_path / "gone")


def test_flatten_keeps_every_field_of_a_spec():
    spec = make_spec()
    flat = flatten(spec)
    assert len(flat) == len(type(spec).model_fields) - 2 + len(type(spec.adapter).model_fields) + len(
        type(spec.training).model_fields
    )
