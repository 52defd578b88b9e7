import contextlib
import logging
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from dept.trial import TrialOutcome
from infra.errors import InputError
from infra.identity import process_id
from infra.settings import home
from registry.tracking import Tracker, TrialLog
from registry.tracking.trial_run import thinned
from tests.registry.registry_helpers import make_spec, new_store


def trial(folder, spec=None, **changes):
    """A finished trial and the folder of its adapter, as the store hands it out."""
    spec = spec or make_spec()
    place = folder / spec.fingerprint
    place.mkdir(parents=True, exist_ok=True)
    (place / "adapter.safetensors").write_bytes(b"numbers of " + spec.fingerprint.encode())
    (place / "adapter.json").write_text("{}", encoding="utf-8")
    fields = {
        "adapter_key": f"adapters/{spec.fingerprint}/1",
        "adapter_sha256": "a" * 64,
        "best_step": 20,
        "steps_done": 60,
        "validation": {"accuracy": 75.0},
        "test": {"accuracy": 70.5},
        "loss_curve": [(30, 2.5), (60, 1.5)],
        "validation_curve": [(0, 55.0), (20, 75.0)],
        "validation_loss_curve": [(0, 0.9), (20, 0.5)],
        "seconds": 60.0,
        "tokens": 900,
        "peak_memory_mib": 512.0,
    }
    return TrialOutcome(spec=spec, **{**fields, **changes}), place


class Lossy:
    """An MLflow client that carries a request out and then loses the answer, once for each method named."""

    def __init__(self, client, *methods):
        self._client, self._lose, self.calls = client, set(methods), []

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def call(*args, **kwargs):
            self.calls.append(name)
            answer = method(*args, **kwargs)
            if name in self._lose:
                self._lose.remove(name)
                raise ConnectionError("answer lost")
            return answer

        return call


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
    curve = [(step, 3.0 / step) for step in range(1, 61)]
    outcome, folder = trial(tmp_path, spec, loss_curve=curve, validation={"accuracy": 75.0, "loss": math.nan})
    parent = tracker.open_flow_run("flow", {"plan": "demo", "long": "x" * 9000, "none": None}, {"plan": "demo"})
    item = TrialLog(outcome, 3, folder, provenance={"device": "cpu"}, tags={"registered_model": "m"}, ended=1000.0)
    run_id = tracker.log_trials(parent, [item])[spec.fingerprint]
    run = tracker.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "movie-polarity/k16/s0/best-source:amazon-polarity"
    assert (run.info.start_time, run.info.end_time) == (940_000, 1_000_000)
    wanted = {
        "kind": "trial",
        "role": "target",
        "backbone": "tiny",
        "backbone_id": "b" * 64,
        "data_hash": "d" * 64,
        "fingerprint": spec.fingerprint,
        "attempt": "3",
        "adapter_sha256": "a" * 64,
        "source_sha256": "c" * 64,
        "owner": process_id(),
        "mlflow.parentRunId": parent,
        "provenance.device": "cpu",
        "registered_model": "m",
    }
    assert wanted.items() <= run.data.tags.items()
    assert run.data.params == {
        "task": "movie-polarity",
        "k": "16",
        "seed": "0",
        "method": "dept",
        "start": "best-source",
        "source": "amazon-polarity",
        "lr_prompt": "0.01",
        "lr_low_rank": "0.001",
        "steps": "60",
        "m": "10",
        "r": "4",
    }
    assert run.data.metrics["test/accuracy"] == 70.5
    assert run.data.metrics["validation/accuracy"] == 75.0
    assert math.isnan(run.data.metrics["validation/loss"])
    assert run.data.metrics["cost/peak_memory_mib"] == 512.0
    assert {"cost/seconds", "cost/tokens_per_second", "cost/trainable"} <= run.data.metrics.keys()
    points = tracker.client.get_metric_history(run_id, "train/loss")
    assert sorted((point.step, point.value) for point in points) == curve
    assert {point.step: point.timestamp for point in points}[30] == 970_000  # half of the steps, half of the time
    for key, wanted in (
        ("validation/curve", [(0, 55.0), (20, 75.0)]),
        ("validation/loss_curve", [(0, 0.9), (20, 0.5)]),
    ):
        assert sorted((p.step, p.value) for p in tracker.client.get_metric_history(run_id, key)) == wanted
    files = {file.path for file in tracker.client.list_artifacts(run_id, "adapter")}
    assert files == {"adapter/adapter.safetensors", "adapter/adapter.json"}
    again = tracker.download(f"{run.info.artifact_uri}/adapter", tmp_path / "again")
    assert (again / "adapter.safetensors").read_bytes() == (folder / "adapter.safetensors").read_bytes()
    (tmp_path / "report.html").write_text("<p>")
    tracker.close_flow_run(parent, "FINISHED", {"trials": 1}, [tmp_path / "report.html", folder])
    closed = tracker.client.get_run(parent)
    assert (closed.info.status, closed.data.metrics["trials"], closed.data.params["plan"]) == ("FINISHED", 1.0, "demo")
    assert len(closed.data.params["long"]) == 500
    assert "none" not in closed.data.params
    assert {"report.html", spec.fingerprint} <= {file.path for file in tracker.client.list_artifacts(parent)}
    assert tracker.log_trial("another", outcome, folder) == run_id


def test_a_trial_costs_four_requests_and_no_search(local, tmp_path):
    local.client = Lossy(local.client)
    outcome, folder = trial(tmp_path)
    first = local.log_trials(None, [TrialLog(outcome, 1, folder)])
    assert local.client.calls == ["create_run", "log_batch", "set_terminated"]  # and the files, past the client
    assert local.log_trials(None, [TrialLog(outcome, 1, folder)]) == first  # asked again in the same process
    assert len(local.client.calls) == 3


@pytest.mark.parametrize("method", ["create_run", "log_batch", "set_terminated"])
def test_an_answer_lost_after_the_request_makes_no_second_run(local, tmp_path, method):
    outcome, folder = trial(tmp_path)
    local.client = Lossy(local.client, method)
    (run_id,) = local.log_trials(None, [TrialLog(outcome, 1, folder)]).values()
    assert local.client.calls.count(method) == (1 if method == "create_run" else 2)
    (run,) = local.client.search_runs([local.experiment_id])
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert len(local.client.get_metric_history(run_id, "train/loss")) == 2  # sent twice, kept once


def test_a_parent_run_whose_answer_was_lost_is_found_again(local):
    local.client = Lossy(local.client, "create_run")
    run_id = local.open_flow_run("flow", {"plan": "demo"}, {})
    assert [run.info.run_id for run in local.client.search_runs([local.experiment_id])] == [run_id]


def test_what_is_made_elsewhere_is_looked_for_before_it_is_made_again(local):
    local.client = Lossy(local.client, "create_registered_model", "create_model_version", "delete_model_version")
    local.ask("create_registered_model", "m", found=lambda: local.client.get_registered_model("m"))
    made = local.ask(
        "create_model_version",
        "m",
        "file:///nowhere",
        found=lambda: next(iter(local.client.search_model_versions("name = 'm'")), None),
    )
    assert [version.version for version in local.client.search_model_versions("name = 'm'")] == [made.version]
    local.ask("delete_model_version", "m", made.version)  # the repetition finds nothing, which is no refusal
    assert local.client.search_model_versions("name = 'm'") == []


def test_a_server_that_loses_answers_gets_one_run(server, tmp_path):
    """The real way: a proxy hands each request on and cuts the connection instead of answering, once for each path."""
    with lossy_proxy(server) as (address, seen):
        tracker = Tracker(address, experiment=f"x{time.monotonic_ns()}")
        outcome, folder = trial(tmp_path)
        seen.lose |= {"/runs/create", "/runs/log-batch", "/runs/update", "/adapter/adapter.json"}
        (run_id,) = tracker.log_trials(None, [TrialLog(outcome, 1, folder)]).values()
        assert not seen.lose
    direct = MlflowClient(server)
    (run,) = direct.search_runs([tracker.experiment_id])
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert len(direct.get_metric_history(run_id, "train/loss")) == 2


def test_a_server_behind_a_proxy_that_is_down_is_waited_for(server, tmp_path):
    """No connection, then pages of the proxy that say 503 and 502: none of them ends the run or makes a second one."""
    with lossy_proxy(server) as (address, seen):
        tracker = Tracker(address, experiment=f"x{time.monotonic_ns()}")
        outcome, folder = trial(tmp_path)
        seen.instead += ["cut", 503, 502]
        (run_id,) = tracker.log_trials(None, [TrialLog(outcome, 1, folder)]).values()
        assert not seen.instead
        seen.instead += [403]
        with pytest.raises(MlflowException, match="403"):
            tracker.ask("get_run", run_id)  # a refusal: not asked again
        assert not seen.instead
    runs = MlflowClient(server).search_runs([tracker.experiment_id])
    assert [(run.info.run_id, run.info.status) for run in runs] == [(run_id, "FINISHED")]


def test_mlflow_away_in_mid_run_is_waited_for_and_said_once(local, tmp_path, caplog):
    outcome, folder = trial(tmp_path)
    store, until, waits = local.client, time.monotonic() + 3.0, []

    class Away:
        def __getattr__(self, name):
            if time.monotonic() < until:
                return lambda *args, **kwargs: (_ for _ in ()).throw(ConnectionError("refused"))
            return getattr(store, name)

    local.client = Away()
    with caplog.at_level(logging.WARNING, "registry"):
        runs = local.log_trials(None, [TrialLog(outcome, 1, folder)], on_wait=lambda: waits.append(1))
    assert store.get_run(runs[outcome.spec.fingerprint]).info.status == "FINISHED"
    said = [record.getMessage() for record in caplog.records if record.name.startswith("registry")]
    assert len(said) == 2
    assert "does not answer (refused); waiting" in said[0]
    assert "answers again" in said[1]
    assert waits  # so that leases can be renewed


def test_mlflow_on_a_postgresql_that_goes_away_and_comes_back(postgres, tmp_path):
    tracker = Tracker(postgres.url())
    outcome, folder = trial(tmp_path)
    parent = tracker.open_flow_run("flow", {}, {})
    postgres.stop()
    back = threading.Timer(3.0, postgres.start)
    back.start()
    try:
        (run_id,) = tracker.log_trials(parent, [TrialLog(outcome, 1, folder)]).values()
    finally:
        back.join()
    runs = tracker.client.search_runs([tracker.experiment_id], filter_string="tags.kind = 'trial'")
    assert [(run.info.run_id, run.info.status) for run in runs] == [(run_id, "FINISHED")]
    assert len(tracker.client.get_metric_history(run_id, "train/loss")) == 2


def test_the_run_of_an_adapter_that_was_made_again_says_so(local, tmp_path):
    outcome, folder = trial(tmp_path)
    (old,) = local.log_trials(None, [TrialLog(outcome, 1, folder)]).values()
    again, _ = trial(tmp_path, outcome.spec, adapter_sha256="b" * 64)
    (new,) = local.log_trials(None, [TrialLog(again, 2, folder)]).values()
    assert new != old
    assert local.client.get_run(old).data.tags["superseded_by_attempt"] == "2"
    assert "superseded_by_attempt" not in local.client.get_run(new).data.tags


def test_what_a_killed_process_left_is_written_anew(local, tmp_path):
    outcome, folder = trial(tmp_path)
    tags = {"fingerprint": outcome.spec.fingerprint, "attempt": "1", "owner": "elsewhere"}
    left = local.client.create_run(local.experiment_id, tags=tags).info.run_id
    local.client = Lossy(local.client, "delete_run")  # deleted, and deleted again: no refusal
    (run_id,) = local.log_trials(None, [TrialLog(outcome, 2, folder)]).values()
    old = local.client.get_run(left)
    assert (old.info.status, old.info.lifecycle_stage) == ("KILLED", "deleted")
    assert [run.info.run_id for run in local.client.search_runs([local.experiment_id])] == [run_id]
    assert "mlflow.parentRunId" not in local.client.get_run(run_id).data.tags


def test_an_attempt_that_was_overtaken_writes_nothing(local, tmp_path):
    outcome, folder = trial(tmp_path)
    late, _ = trial(tmp_path, adapter_sha256="e" * 64)
    (run_id,) = local.log_trials(None, [TrialLog(outcome, 3, folder)]).values()
    assert list(local.log_trials(None, [TrialLog(late, 2, folder)]).values()) == [run_id]
    # the other way round: it woke in the middle of its own writing
    other, folder = trial(tmp_path, make_spec(seed=1))

    class Overtaken(Lossy):
        def __getattr__(self, name):
            if name == "log_batch" and not self.calls.count("delete_run"):
                self.calls.append("delete_run")
                (run,) = self._client.search_runs(
                    [local.experiment_id], filter_string=f"tags.fingerprint = '{other.spec.fingerprint}'"
                )
                self._client.delete_run(run.info.run_id)
            return super().__getattr__(name)

    local.client = Overtaken(local.client)
    assert local.log_trials(None, [TrialLog(other, 1, folder)])  # no error: the ledger refuses what comes after
    assert len(local.client.search_runs([local.experiment_id])) == 1


def test_a_trial_healed_with_other_numbers_gets_a_run_of_its_own(local, tmp_path):
    outcome, folder = trial(tmp_path)
    (old,) = local.log_trials(None, [TrialLog(outcome, 1, folder)]).values()
    anew, _ = trial(tmp_path, adapter_sha256="e" * 64)
    (new,) = local.log_trials(None, [TrialLog(anew, 2, folder)]).values()
    assert new != old
    assert local.client.get_run(old).info.status == "FINISHED"


def test_a_run_that_was_deleted_is_written_again_when_asked(local, tmp_path):
    outcome, folder = trial(tmp_path)
    first = local.log_trial(None, outcome, folder)
    local.client.delete_run(first)
    second = local.log_trial(None, outcome, folder)
    assert second != first
    assert {file.path for file in local.client.list_artifacts(second, "adapter")} == {
        "adapter/adapter.safetensors",
        "adapter/adapter.json",
    }


def test_a_long_curve_is_thinned_to_one_request(local, tmp_path):
    long = [(step, 1.0 / step) for step in range(1, 30_001)]
    few = thinned(long, 500, kept=12_345)
    assert 490 < len(few) <= 501
    assert {1, 12_345, 30_000} <= {step for step, _ in few}
    assert thinned(long[:500], 500) == long[:500]
    outcome, folder = trial(tmp_path, loss_curve=long, steps_done=30_000)
    local.client = Lossy(local.client)
    local.log_trials(None, [TrialLog(outcome, 1, folder)])
    assert local.client.calls.count("log_batch") == 1


def test_flow_runs_of_killed_processes_are_closed(local):
    place, _, _ = process_id().rpartition(":")
    tags = {"kind": "flow", "owner": f"{place}:1"}
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


def test_only_mlflows_own_file_commits_without_waiting(local, tmp_path):
    from sqlalchemy import create_engine, text

    for file, wanted in ((home() / "mlflow.db", 1), (tmp_path / "other.db", 2)):
        with create_engine(f"sqlite:///{file}").connect() as connection:
            assert connection.execute(text("pragma synchronous")).scalar() == wanted


def test_links_land_on_runs_and_hold_no_password(local):
    local.uri, local.is_server = "http://host:5000/", True
    assert local.link("abc") == "http://host:5000/#/experiments/1/runs/abc?workflowType=machine_learning"
    assert local.link() == "http://host:5000/#/experiments/1/runs?workflowType=machine_learning"


def test_no_password_reaches_mlflow_or_a_message(local, tmp_path, monkeypatch):
    monkeypatch.setattr("registry.tracking.tracker.OPENING_SECONDS", 0.5)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    outcome, folder = trial(tmp_path)
    secret = "postgresql://me:hunter2@db/x"
    parent = local.open_flow_run("flow", {"ledger": secret}, {})
    local.log_trials(parent, [TrialLog(outcome, 1, folder, provenance={"store": secret})])
    local.set_tags(parent, {"url": secret})
    for run in local.client.search_runs([local.experiment_id]):
        assert "hunter2" not in f"{run.data.params} {run.data.tags}"
    with pytest.raises(InputError) as failed:
        Tracker("http://me:hunter2@127.0.0.1:9")
    assert "hunter2" not in str(failed.value)
    assert failed.value.__cause__ is None
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", "hunter2")
    with pytest.raises(InputError) as failed:
        Tracker("postgresql+psycopg://me:hunter2@127.0.0.1:9/x")
    assert "hunter2" not in str(failed.value)


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
    outcome, folder = trial(tmp_path)
    quick = Tracker(patience=1.0)
    quick.client = MlflowClient(tracking_uri="http://127.0.0.1:9", registry_uri="http://127.0.0.1:9")
    with pytest.raises(InputError, match="does not answer"):
        quick.log_trials(None, [TrialLog(outcome, 1, folder)])
    assert folder.is_dir()
    assert local.log_trial(None, outcome, folder)
    monkeypatch.setenv("DEPT_MLFLOW_PATIENCE", "soon")
    with pytest.raises(InputError, match="MLFLOW_PATIENCE"):
        Tracker()


def test_a_refusal_is_not_waited_for(local):
    start = time.monotonic()
    with pytest.raises(MlflowException):
        local.ask("get_run", "f" * 32)
    assert time.monotonic() - start < 2


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
    outcome, _ = trial(tmp_path)
    with pytest.raises(InputError, match="is gone"):
        local.log_trial(None, outcome, tmp_path / "gone")
    assert local.client.search_runs([local.experiment_id]) == []


@contextlib.contextmanager
def lossy_proxy(server):
    """An HTTP proxy in front of `server`; what is named in `.lose` is handed on once and not answered.

    `.instead` holds what it does with the next requests in place of handing them on: "cut", or a status.
    """
    import http.server
    import types
    import urllib.error

    seen = types.SimpleNamespace(lose=set(), instead=[])

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            instead = seen.instead.pop(0) if seen.instead else None
            if instead == "cut":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else None
            if instead is not None:
                self.send_response(instead)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            kept = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
            asked = urllib.request.Request(f"{server}{self.path}", data=body, headers=kept, method=self.command)
            try:
                with urllib.request.urlopen(asked, timeout=30) as answer:
                    status, told = answer.status, answer.read()
            except urllib.error.HTTPError as refusal:
                status, told = refusal.code, refusal.read()
            for part in list(seen.lose):
                if part in self.path:
                    seen.lose.discard(part)
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *args):
            pass

    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}", seen
    finally:
        proxy.shutdown()
        proxy.server_close()
