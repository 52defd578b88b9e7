"""`dept up` and `dept down` on this machine: real servers, a real worker, a tiny flow, ports of the test's own."""

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import StateType, WorkerStatus

from infra import services
from infra.commands import need_free, worker_command
from infra.crash_automation import AUTOMATION, SILENCE
from infra.errors import InputError
from infra.prefect_api import client
from infra.processes import MARK, Record, leader, members, spawn, stop
from infra.settings import home
from infra.temporary_server import prefect_api

FLOW = """
import os
import time
from pathlib import Path

import mlflow
from prefect import flow


@flow
def tiny(n: int = 2, seconds: int = 0):
    time.sleep(seconds)
    mlflow.set_experiment("tiny")
    with mlflow.start_run():
        mlflow.log_metric("double", 2 * n)
        mlflow.log_text("hello", "note.txt")
    Path(os.environ["DEPT_HOME"], "ran.txt").write_text(str(Path.cwd()))
"""
PREFECT_YAML = """
name: tiny
deployments:
  - {name: one, entrypoint: "tiny.py:tiny", parameters: {n: 21}, work_pool: {name: gpu}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG", "PREFECT_PORT", "MLFLOW_PORT", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)  # measuring three servers would only slow them down


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    (root / "tiny.py").write_text(FLOW)
    (root / "prefect.yaml").write_text(PREFECT_YAML)
    return root


def test_up_run_up_again_heal_and_down(project, capsys):
    prefect_port, mlflow_port = free_port(), free_port()
    options = {"prefect_file": project / "prefect.yaml", "root": project}
    said: list[str] = []
    try:
        states = services.up(prefect_port, mlflow_port, **options, say=said.append)
        assert [state.name for state in states] == ["prefect", "mlflow", "controller", "worker"]
        assert all(state.running and state.answers for state in states)
        assert any(line.startswith("next:") and "deployment run tiny/one" in line for line in said)
        assert httpx.get(f"http://127.0.0.1:{mlflow_port}/health", trust_env=False).text == "OK"
        records = json.loads((home() / "services.json").read_text())["records"]
        assert len(members(Record(**records["mlflow"]))) <= 4  # without the setting seven more, of 240 MB each
        page = f"http://127.0.0.1:{mlflow_port}/#/experiments"
        assert any(line.startswith("mlflow") and page in line for line in said)

        api = f"http://127.0.0.1:{prefect_port}/api"
        with client(api) as asked:
            pools = {pool.name: (pool.type, pool.concurrency_limit) for pool in asked.read_work_pools()}
            assert pools == {"control": ("process", None), "gpu": ("process", 1)}
            automations = asked.request("POST", "/automations/filter", json={}).json()
        assert [one["name"] for one in automations] == [AUTOMATION]
        assert automations[0]["trigger"]["within"] == SILENCE
        with prefect_api() as found:  # `dept run` in this home starts no second server on the same database
            assert found == api

        # The command that `up` proposes, from the folder of prefect.toml, without a variable to point at the server.
        own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
        command = [str(Path(sys.executable).with_name("prefect")), "deployment", "run", "tiny/one", "--watch"]
        done = subprocess.run(command, cwd=project, env=own, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Completed" in done.stdout
        assert (home() / "ran.txt").read_text() == str(project)
        assert [note.read_text() for note in (home() / "artifacts").rglob("note.txt")] == ["hello"]
        assert (home() / "mlflow.db").read_bytes()[18:20] == b"\x02\x02"  # SQLite's mark of WAL mode

        said.clear()
        again = services.up(prefect_port, mlflow_port, **options, say=said.append)
        assert [state.pid for state in again] == [state.pid for state in states]
        assert [line.partition(" (")[0] for line in said] == [
            f"{name} is already running" for name in ("prefect", "mlflow", "controller", "worker")
        ]

        # A worker that died is started again; the servers stay, and so does what a person has set.
        with client(api) as asked:
            for pool in ("control", "gpu"):
                assert [one.status for one in asked.read_workers_for_work_pool(pool)] == [WorkerStatus.ONLINE]
            asked.update_work_pool("gpu", WorkPoolUpdate(concurrency_limit=2))
        worker = psutil.Process(states[3].pid)
        worker.kill()
        worker.wait()
        healed = services.up(prefect_port, mlflow_port, **options, say=said.append)
        assert [state.pid for state in healed[:3]] == [state.pid for state in states[:3]]
        assert healed[3].running
        assert healed[3].pid != states[3].pid
        with client(api) as asked:
            assert asked.read_work_pool("gpu").concurrency_limit == 2
            # a replaced automation forgets the flow runs it watches
            assert asked.request("POST", "/automations/filter", json={}).json() == automations

            # A flow run that is under way when all is stopped does not stay "Running".
            deployment = asked.read_deployment_by_name("tiny/one").id
            run = asked.create_flow_run_from_deployment(deployment, parameters={"seconds": 100})
            deadline = time.monotonic() + 60
            while asked.read_flow_run(run.id).state.type != StateType.RUNNING:
                assert time.monotonic() < deadline
                time.sleep(0.5)

        records = json.loads((home() / "services.json").read_text())["records"]
        assert services.down(said.append) == ["controller", "worker", "mlflow", "prefect"]
    finally:
        services.down(said.append)
    with contextlib.closing(sqlite3.connect(home() / "prefect" / "prefect.db")) as database:
        states_left = dict(database.execute("select name, state_type from flow_run"))
    assert states_left[run.name] == "CRASHED"
    assert f"flow run {run.name} was under way" in "\n".join(said)
    for body in records.values():
        assert leader(Record(**body)) is None
        assert members(Record(**body)) == []
    for port in (prefect_port, mlflow_port):
        need_free("prefect", port)
    assert not (project / "prefect.toml").exists()
    assert not (home() / "services.json").exists()
    assert not any(state.running for state in services.status())
    assert services.down() == []
    assert "nothing is running" in capsys.readouterr().out


def test_the_worker_of_devices_takes_no_more_than_there_are(monkeypatch):
    """A flow run that it took beyond that would wait for a device here, while another machine has one free."""
    monkeypatch.setenv("DEPT_DEVICES", "0,1")
    assert worker_command("gpu", "w")[-2:] == ["--limit", "2"]
    assert "--limit" not in worker_command("control", "w")
    monkeypatch.setenv("DEPT_DEVICES", "cpu")
    monkeypatch.setenv("DEPT_CPU_SLOTS", "3")
    assert worker_command("gpu", "w")[-2:] == ["--limit", "3"]


def test_a_taken_port_is_named_before_anything_starts(project, monkeypatch):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} \(for prefect\) is taken.*PREFECT_PORT=\d+ make up"):
            services.up(port, free_port(), root=project)
        monkeypatch.setenv("MLFLOW_PORT", str(port))
        with pytest.raises(InputError, match=rf"port {port} \(for mlflow\) is taken.*MLFLOW_PORT=\d+ make up"):
            services.up(free_port(), root=project)
    assert not (home() / "logs").exists()
    assert not (home() / "services.json").exists()


@pytest.mark.parametrize("text", ["x", "0", "70000", "-1", "4200.5"])
def test_a_port_that_is_none(text, monkeypatch):
    monkeypatch.setenv("PREFECT_PORT", text)
    with pytest.raises(InputError, match=f"PREFECT_PORT={text}: not a port"):
        services.up()


def test_one_port_for_both_servers():
    port = free_port()
    with pytest.raises(InputError, match="given to both"):
        services.up(port, port)


def test_a_service_that_fails_shows_its_log_and_leaves_nothing(project, monkeypatch):
    broken = textwrap.dedent("import sys; print('the reason is here'); sys.exit(3)")
    url = "http://127.0.0.1:1"
    monkeypatch.setattr(services, "prefect_command", lambda port: ([sys.executable, "-c", broken], url))
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(services, "mlflow_command", lambda port: (sleeper, url))
    with pytest.raises(services.ServiceError, match=r"(?s)prefect ended while starting.*prefect\.log.*the reason is"):
        services.up(free_port(), free_port(), root=project, say=lambda line: None)
    assert not (home() / "services.json").exists()
    assert not any(_environ(process).get("DEPT_HOME") == str(home()) for process in psutil.Process().children())


def test_a_damaged_record_is_an_input_error():
    home().mkdir(parents=True)
    (home() / "services.json").write_text("{")
    with pytest.raises(InputError, match=r"services\.json is damaged or of another version"):
        services.down()


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _spawn(code: str, log: Path, token: str = "t") -> Record:
    return spawn("x", [sys.executable, "-c", code], env=os.environ, cwd=log.parent, log=log, token=token)


def test_a_process_with_another_start_time_is_not_stopped(tmp_path):
    record = _spawn("import time; time.sleep(60)", tmp_path / "x.log")
    here, start = record.id.rsplit(":", 1)
    strangers = (f"{here}:{int(start) - 6000}", f"other-{record.id}", "")  # same number; other process, other machine
    try:
        for other in strangers:
            assert not stop(replace(record, id=other, mark="other:x"))
        assert leader(record) is not None
    finally:
        assert stop(record)
    assert leader(record) is None
    assert not stop(record)


def test_children_that_lost_their_parent_are_stopped_and_stubborn_ones_killed(tmp_path):
    child = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]).wait()"
    record = _spawn(parent, tmp_path / "x.log")
    while "deaf" not in (tmp_path / "x.log").read_text():
        time.sleep(0.05)
    psutil.Process(record.pid).kill()
    while leader(record):
        time.sleep(0.05)
    assert len(members(record)) == 1
    assert stop(record, grace=0.5)
    assert members(record) == []


def test_signals_ignored_by_the_shell_are_heard(tmp_path):
    """A worker started with `&` from a script would ignore SIGINT and never stop; a spawned one must not."""
    code = "import signal; print(*map(repr, map(signal.getsignal, (signal.SIGINT, signal.SIGTERM))), flush=True)"
    log = tmp_path / "x.log"
    start = f"""
import os, sys
from pathlib import Path
from infra.processes import spawn
spawn("x", [sys.executable, "-c", {code!r}], env=os.environ, cwd=Path("."), log=Path({str(log)!r}), token="t")
"""
    script = f"trap '' INT TERM; exec {sys.executable} -c \"$CODE\""
    repository = Path(services.__file__).parents[1]
    subprocess.run(["sh", "-c", script], env={**os.environ, "CODE": start}, cwd=repository, check=True)
    deadline = time.monotonic() + 20
    while not (said := log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "default_int_handler" in said
    assert "SIG_DFL" in said
    assert MARK not in os.environ
