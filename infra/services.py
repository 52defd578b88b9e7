"""The services of one machine: Prefect server, MLflow server, and a worker for each pool. `dept up`, `dept down`.

`controller` serves the pool control, `worker` the pool gpu. By hand, beside or in place of the latter: `prefect worker
start --pool gpu --limit 1`. Without --limit it takes as many flow runs at once as the pool allows, each with a backbone
of its own.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from infra import deployments, prefect_api
from infra.commands import HOST, environment, mlflow_command, need_free, port_of, prefect_command, worker_command
from infra.crash_automation import HEARTBEAT
from infra.errors import InputError
from infra.mlflow_page import page_of_home
from infra.processes import Record, leader, spawn, stop, tail
from infra.service_records import Say, ServiceRecords, forget_toml, locked, path, write_toml
from infra.settings import home
from infra.temporary_server import first_start

ROOT = Path(__file__).resolve().parents[1]
PREFECT, MLFLOW, CONTROLLER, WORKER = "prefect", "mlflow", "controller", "worker"
SERVICES = (PREFECT, MLFLOW, CONTROLLER, WORKER)  # in the order in which they start
POOLS = {CONTROLLER: prefect_api.CONTROL, WORKER: prefect_api.GPU}


class ServiceError(InputError):
    """A service did not come up or does not answer. The message ends with the last lines of its log."""


@dataclass(frozen=True)
class ServiceState:
    """One service as it is now. `answers`: an HTTP probe succeeded (for the worker: its process runs)."""

    name: str
    running: bool
    answers: bool
    pid: int | None
    url: str | None
    log: Path


def up(
    prefect_port: int | None = None,
    mlflow_port: int | None = None,
    *,
    prefect_file: Path | None = None,
    root: Path = ROOT,
    timeout: float = 120.0,
    say: Say = print,
) -> list[ServiceState]:
    """Start what does not run yet, wait until it answers, make pools and automation, deploy.

    Args:
        prefect_port: None: $PREFECT_PORT, else 4200. Only used if no Prefect server of ours runs.
        mlflow_port: None: $MLFLOW_PORT, else 5000.
        prefect_file: the deployments; None: infra/prefect.yaml.
        root: working directory of the worker; entrypoints in `prefect_file` are relative to it.
        timeout: seconds that each service has to answer.
        say: gets one line at a time.

    Raises:
        InputError: a port is taken or no port at all; nothing has been started then.
        ServiceError: something did not come up; what this call started has been stopped again.
    """
    root = root.resolve()
    file = (prefect_file or ROOT / "infra" / "prefect.yaml").resolve()
    ports = {PREFECT: port_of(PREFECT, prefect_port, 4200), MLFLOW: port_of(MLFLOW, mlflow_port, 5000)}
    if ports[PREFECT] == ports[MLFLOW]:
        raise InputError(f"port {ports[PREFECT]}: given to both servers; set PREFECT_PORT or MLFLOW_PORT to another")
    with locked():
        known = ServiceRecords.read()
        alive = {name for name, record in known.records.items() if leader(record)}
        for name in SERVICES:
            if name in alive:
                record = known.records[name]
                say(f"{name} is already running (pid {record.pid}){f' at {record.url}' if record.url else ''}")
        if len(alive) == len(SERVICES) and known.ready:
            return _states(known)
        for name in (PREFECT, MLFLOW):
            if name not in alive:
                if name in known.records:
                    stop(known.records[name])  # children of a server that died may still hold its port
                need_free(name, ports[name])
        started: list[str] = []
        try:
            _start(known, alive, started, ports, file, root, timeout, say)
        except BaseException:
            for name in reversed(started):
                _stop(known.records.pop(name))
            forget_toml(known)
            if known.records:
                known.write()
            else:
                path().unlink(missing_ok=True)
            raise
        states = _states(known)
    _tell(states, file, root, say)
    return states


def down(say: Say = print) -> list[str]:
    """Stop what `up` started and remove what `up` wrote (databases and logs stay). Idempotent.

    A process is stopped only if it still is the recorded one, or carries the mark of this very `up`.
    Returns the names of the services that were stopped.

    Raises:
        InputError: services.json is damaged.
    """
    if not path().exists():
        say("nothing is running")
        return []
    with locked():
        known = ServiceRecords.read()
        stopped = list[str]()
        for name in (CONTROLLER, WORKER, MLFLOW, PREFECT):  # a controller would start its workers again
            if name == MLFLOW and stopped:
                _crash_runs(known, say)
            record = known.records.get(name)
            if record is not None and _stop(record):
                stopped.append(name)
                say(f"stopped {name} (pid {record.pid})")
        forget_toml(known)
        path().unlink(missing_ok=True)
    if not stopped:
        say("nothing was running any more")
    return stopped


def status() -> list[ServiceState]:
    """Prefect server, MLflow server, and the workers of the pools control and gpu, in this order.

    Raises:
        InputError: services.json is damaged.
    """
    return _states(ServiceRecords.read())


def _start(
    known: ServiceRecords,
    alive: set[str],
    started: list[str],
    ports: dict[str, int],
    file: Path,
    root: Path,
    timeout: float,
    say: Say,
) -> None:
    """Fill `known` and `started` step by step, so that the caller can undo what was done."""
    known.ready = False
    commands = {PREFECT: prefect_command, MLFLOW: mlflow_command}
    with first_start() if PREFECT not in alive else contextlib.nullcontext():
        for name in (PREFECT, MLFLOW):  # both at once: they share no work and each takes seconds
            if name not in alive:
                say(f"starting {name} on port {ports[name]}")
                command, url = commands[name](ports[name])
                env = environment(PREFECT_SERVER_API_HOST=HOST, PREFECT_SERVER_API_PORT=str(ports[name]))
                _launch(known, started, name, command, env, root, url)
        for name in (PREFECT, MLFLOW):
            record = known.records[name]
            _await(record, timeout, lambda record=record: _answers(record))  # type: ignore[misc]

    api = f"{known.records[PREFECT].url}/api"
    env = environment(
        PREFECT_API_URL=api,
        MLFLOW_TRACKING_URI=str(known.records[MLFLOW].url),
        PREFECT_LOGGING_LEVEL="INFO",
        PREFECT_WORKER_QUERY_SECONDS="2",
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY=str(HEARTBEAT),
    )
    try:
        say(f"deploying {file.name}")
        fault = deployments.put(api, file, root, env, timeout=max(timeout, deployments.DEPLOY_SECONDS))
    except ConnectionError as error:
        record = known.records[PREFECT]
        raise ServiceError(
            f"Prefect server refused the set-up ({error}); {record.log} ends:\n{tail(record.log)}"
        ) from error
    if fault:
        raise ServiceError(f"{fault}\nAll is stopped again. Remedy: run `dept up` again; what is deployed stays")
    began, names = time.time(), dict[str, str]()
    for name, pool in POOLS.items():  # both at once, as above
        if name in alive:
            continue
        if name in known.records:
            _stop(known.records[name])
        say(f"starting a worker on pool {pool}")
        names[name] = f"{pool}-{known.token}"
        _launch(known, started, name, worker_command(pool, names[name]), env, root, None)
    for name, worker in names.items():

        def answers(worker: str = worker, pool: str = POOLS[name]) -> bool:
            return prefect_api.worker_answers(api, worker, began, pool)

        _await(known.records[name], timeout, answers)
    write_toml(known, root, api, say)
    known.ready = True
    known.write()


def _launch(
    known: ServiceRecords,
    started: list[str],
    name: str,
    command: list[str],
    env: dict[str, str],
    root: Path,
    url: str | None,
) -> None:
    log = home() / "logs" / f"{name}.log"
    known.records[name] = spawn(name, command, env=env, cwd=root, log=log, token=known.token, url=url)
    started.append(name)
    known.write()  # at once: should this process die now, `down` still knows


def _await(record: Record, timeout: float, answers: Callable[[], bool]) -> None:
    deadline = time.monotonic() + timeout
    while not answers():
        fault = None
        if leader(record) is None:
            fault = "ended while starting"
        elif time.monotonic() > deadline:
            fault = f"did not answer within {timeout:g} s"
        if fault:
            raise ServiceError(f"{record.name} {fault}; {record.log} ends:\n{tail(record.log)}")
        time.sleep(0.2)


def _stop(record: Record) -> bool:
    return stop(record, leader_first=5.0 if record.name in POOLS else 0.0)


def _crash_runs(known: ServiceRecords, say: Say) -> None:
    server = known.records.get(PREFECT)
    if server is None or leader(server) is None:
        return
    with contextlib.suppress(ConnectionError):  # the server hangs: the automation will do it after the next start
        for name in prefect_api.crash_runs(f"{server.url}/api", "stopped by `make down`; run it again to go on"):
            say(f"flow run {name} was under way and now counts as crashed; run it again to go on")


def _answers(record: Record) -> bool:
    """Whether the server is healthy; a worker has no address and answers by running."""
    if record.url is None:
        return True
    if record.name == PREFECT:
        return prefect_api.answers(f"{record.url}/api")
    try:
        return httpx.get(f"{record.url}/health", timeout=2.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _states(known: ServiceRecords) -> list[ServiceState]:
    states = []
    for name in SERVICES:
        record, log = known.records.get(name), home() / "logs" / f"{name}.log"
        running = record is not None and leader(record) is not None
        if record is None or not running:
            states.append(ServiceState(name, False, False, None, None, log))
        else:
            states.append(ServiceState(name, True, _answers(record), record.pid, record.url, Path(record.log)))
    return states


def _tell(states: list[ServiceState], file: Path, root: Path, say: Say) -> None:
    for state in states:
        where = page_of_home(state.url) if state.url and state.name == MLFLOW else state.url
        say(f"{state.name:<10} {where or f'pool {POOLS[state.name]}'}   log: {state.log}")
    prefect = Path(sys.executable).with_name("prefect")
    shown = prefect.relative_to(root) if prefect.is_relative_to(root) else prefect
    say(f"next:    {shown} deployment run {deployments.first(file)}     (stop all: make down)")
