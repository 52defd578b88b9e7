"""A server that dies in mid-run and is back two minutes later: waited for, said, nothing lost, nothing twice.

Real processes throughout. Each case takes three minutes, nearly all of it waiting (DEPT_BENCH_AWAY=20: a short look).
"""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from registry.ledger import Ledger
from registry.tracking import Tracker
from tests.registry.registry_helpers import new_store
from tests.servers import MlflowServer

AWAY = float(os.environ.get("DEPT_BENCH_AWAY", "125"))  # seconds
ROOT = Path(__file__).resolve().parents[2]
SAID = {
    "mlflow": (r"MLflow http://\S+ does not answer \(.+\); waiting for it", r"MLflow answers again, after (\d+) s"),
    "postgresql": (r"ledger postgresql\S+: away \(.+\); waiting for it", r"ledger postgresql\S+: back after (\d+) s"),
}


@pytest.fixture
def away(request, tmp_path, monkeypatch):
    """The server that goes away, running; what runs and this test ask is set to it."""
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        if server.handle is None:
            pytest.skip("the server of $TEST_POSTGRESQL is not ours to stop")
        url = server.url()
        monkeypatch.setenv("DEPT_LEDGER_URL", url)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)  # both in one database, as the tables' names allow
        yield server
        return
    folder = tmp_path / "server"
    new_store(folder)
    server = MlflowServer(folder)
    try:
        server.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        yield server
    finally:
        server.stop()


def wait_for(condition, run, log, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert run.poll() is None, log.read_text()
        assert time.monotonic() < end, f"waited too long\n{log.read_text()}"
        time.sleep(0.1)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("away", "what"), [("mlflow", "mlflow"), ("postgresql", "postgresql")], indirect=["away"])
def test_a_run_outlasts_a_server_that_is_away(away, what, make_plan, tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    training = {"steps": 200, "batch_size": 4, "eval_every": 100, "patience": 100}
    plan = make_plan(strategies=["scratch", "best-source"], probe_steps=2, transfer_training=training)
    log, ledger = tmp_path / "log", Ledger.open()
    with log.open("wb") as out:
        run = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "run", str(plan)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: ledger.find(role="target", kind="train", status="running"), run, log)
        assert len(ledger.find(role="source", status="finished")) == 2
        ledger.close()
        away.stop()
        time.sleep(AWAY)
        assert run.poll() is None, log.read_text()
        away.start()
        assert run.wait(timeout=600) == 0, log.read_text()
    finally:
        run.kill()
        run.wait()
    check_said(what, log.read_text())
    check_whole(ledger)


def check_said(what, told):
    """What is waited for, once; and how long it took, once."""
    begins, ends = (re.findall(pattern, told) for pattern in SAID[what])
    assert len(begins) == 1, told
    (seconds,) = map(int, ends)
    assert seconds > AWAY / 2, told
    assert "Traceback" not in told
    print(f"{what}: stopped for {AWAY:.0f} s, waited for {seconds} s")


def check_whole(ledger):
    """Each trial finished, once; one closed MLflow run for each, one version for each champion."""
    rows = ledger.find()
    assert {row.status for row in rows} == {"finished"}
    assert {row.attempt for row in rows} == {1}
    assert Counter(row.kind for row in rows) == {"train": 12, "probe": 8}
    tracker = Tracker()
    runs = tracker.client.search_runs([tracker.experiment_id], max_results=5000)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert Counter(run.data.tags["kind"] for run in runs) == {"trial": 12, "flow": 1}
    told = [run.data.tags for run in runs if run.data.tags["kind"] == "trial"]
    assert {tags["attempt"] for tags in told} == {"1"}
    assert sorted(tags["fingerprint"] for tags in told) == sorted(
        row.fingerprint for row in rows if row.kind == "train"
    )
    assert [run.status for run in ledger.runs()] == ["finished"]
    models = tracker.client.search_registered_models()
    champions = {row.model: row.challenger_fingerprint for row in ledger.decisions()}
    assert {model.name for model in models} == champions.keys()
    for model in models:
        (version,) = tracker.client.search_model_versions(f"name = '{model.name}'")
        assert version.tags["fingerprint"] == champions[model.name]
        assert model.aliases == {"champion": version.version}
