"""A Prefect API for flows of this process: the server in reach, or a temporary one that ends with its last user.

All runs of one home on one machine share the temporary server. Who starts, joins or leaves holds one lock that the
kernel frees, users are named by process, and the server ends by itself when none of them lives: nothing is left
running by a kill, and nothing that a kill leaves behind is in the way. Prefect's own ephemeral server outlives a
process that is killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from rich.console import Console

from infra.commands import HOST, environment
from infra.errors import InputError
from infra.files import write_text
from infra.identity import host_prefix, is_gone, process_id
from infra.prefect_api import answers
from infra.processes import leader, tail
from infra.secrets import masked
from infra.service_records import ServiceRecords
from infra.settings import home

START_SECONDS = 180.0  # a first start makes the database: 10 s on a quiet machine, more on a busy one
TRIES = 3  # to reach the server that Prefect is set to, 2 s each
LOOK_SECONDS = 0.5  # how often the server looks whether anybody uses it
# Of a server that a person runs; the temporary one has its own file, and only this machine reaches it.
_NOT_OURS = ("PREFECT_SERVER_DATABASE_", "PREFECT_API_DATABASE_", "PREFECT_SERVER_API_", "PREFECT_API_AUTH_STRING")


@contextmanager
def prefect_api() -> Iterator[str]:
    """Let flows of this process find an API while the block runs; yields its URL.

    In this order: the server that Prefect is set to, that of `dept up` in this home, a temporary one.

    Raises:
        InputError: no server answers and none could be started.
    """
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_KEY,
        PREFECT_API_URL,
        PREFECT_LOGGING_TO_API_ENABLED,
        temporary_settings,
    )

    configured = PREFECT_API_URL.value()
    if configured and answers(configured):
        yield configured
        return
    if configured:
        Console(stderr=True).print(f"Prefect server {masked(configured)} does not answer; using a temporary one.")
    if url := _of_up():
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
        return
    with _user() as url:
        # No log lines to this server: nobody can read them there, and the last ones would miss it at the end.
        changed = {PREFECT_API_URL: url, PREFECT_LOGGING_TO_API_ENABLED: False}
        with temporary_settings(changed, restore_defaults=[PREFECT_API_KEY, PREFECT_API_AUTH_STRING]):
            yield url


@contextmanager
def first_start(seconds: float = 2 * START_SECONDS) -> Iterator[None]:
    """One process of this home at a time starts a Prefect server: two would race in making its database.

    Raises:
        InputError: another one holds the lock for longer than `seconds`.
    """
    (home() / "prefect").mkdir(parents=True, exist_ok=True)
    file = home() / "prefect" / "start.lock"
    try:
        with FileLock(file, timeout=seconds):
            yield
    except Timeout as error:
        raise InputError(
            f"another process has been starting a Prefect server in {home()} for {seconds:g} s. Remedy: end it "
            f"(`fuser {file}` names it), then run this again"
        ) from error


@dataclass(frozen=True)
class _Server:
    """The temporary server as its file tells it. `id`: see `infra.identity.process_id`."""

    id: str
    url: str

    @property
    def process(self) -> psutil.Process | None:
        with contextlib.suppress(psutil.NoSuchProcess, ValueError, IndexError):
            return None if is_gone(self.id) else psutil.Process(int(self.id.rsplit(":", 2)[1]))
        return None


def needed_api() -> str:
    """API of the server that Prefect is set to or, where it is set to none, that of `dept up` in this home.

    Raises:
        InputError: it does not answer, or there is none. Another one is not taken in its place.
    """
    from prefect.settings import PREFECT_API_URL

    configured: str | None = PREFECT_API_URL.value()
    if configured and any(answers(configured) for _ in range(TRIES)):
        return configured
    if configured:
        raise InputError(
            f"the Prefect server that PREFECT_API_URL (or Prefect's profile) names does not answer: {configured}. "
            "Remedy: start it, correct the address, or unset it (then the server of `dept up` is taken)"
        )
    if (api := _of_up()) is None:
        raise InputError("no Prefect server is in reach. Remedy: `dept up`, or set PREFECT_API_URL")
    return api


def _of_up() -> str | None:
    """API of the running server of `dept up` in this home."""
    record = ServiceRecords.read().records.get("prefect")
    if record is None or record.url is None or leader(record) is None:
        return None
    url = f"{record.url}/api"
    return url if answers(url) else None


@contextmanager
def _user() -> Iterator[str]:
    """Use the temporary server while the block runs; the last one out ends it."""
    mine = _users() / uuid.uuid4().hex
    with first_start():
        server = _read()
        server = _start() if server is None or not _comes_up(server) else server
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text(process_id(), encoding="utf-8")
    try:
        yield server.url
    finally:
        mine.unlink(missing_ok=True)
        with contextlib.suppress(InputError), first_start(10.0):  # else it ends by itself
            if not _in_use():
                _end(server)


def _here() -> Path:
    """What this machine's server and users of this home write; another host that shares the home has its own."""
    return home() / "prefect" / "temporary" / hashlib.sha256(host_prefix().encode()).hexdigest()[:16]


def _users() -> Path:
    return _here().with_suffix(".users")


def _record() -> Path:
    return _here().with_suffix(".json")


def _read() -> _Server | None:
    """The server that runs; None where there is none, whatever a killed one left."""
    try:
        server = _Server(**json.loads(_record().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return server if server.process is not None else None


def _in_use() -> bool:
    """Whether any user lives; forgets those that were killed."""
    alive = False
    for file in list(_users().iterdir()) if _users().is_dir() else []:
        with contextlib.suppress(OSError):
            name = file.read_text(encoding="utf-8")
            if not name or is_gone(name):  # empty: killed while it wrote, with the lock that is held here now
                file.unlink(missing_ok=True)
            else:
                alive = True
    return alive


def _comes_up(server: _Server) -> bool:
    """Wait for a server that another process began to start; False if it ends or never answers."""
    deadline = time.monotonic() + START_SECONDS
    while not answers(server.url):
        if server.process is None:
            return False
        if time.monotonic() > deadline:
            _end(server)
            return False
        time.sleep(0.1)
    return True


def _start() -> _Server:
    """Start one and wait until it answers; the lock is held."""
    _record().parent.mkdir(parents=True, exist_ok=True)
    _record().unlink(missing_ok=True)
    log = home() / "logs" / "prefect-temporary.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    env = {name: value for name, value in environment().items() if not name.startswith(_NOT_OURS)}
    with log.open("wb") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "infra.temporary_server"],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=env | {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"},
            start_new_session=True,  # so that Ctrl-C reaches the flow first
        )
    deadline = time.monotonic() + START_SECONDS
    while (server := _read()) is None or not answers(server.url):
        if child.poll() is not None or time.monotonic() > deadline:
            child.kill()
            child.wait()
            raise InputError(
                f"no Prefect server could be started for this run; {log} ends: {' '.join(tail(log, 3).split())}. "
                "Remedy: free memory and disk space, or start one (`dept up`)"
            )
        time.sleep(0.1)
    return server


def _end(server: _Server) -> None:
    """End it, by force after a while; the lock is held."""
    process = server.process
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
            try:
                process.wait(timeout=10)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait()
    _record().unlink(missing_ok=True)


def _serve() -> None:
    """Be the temporary server for as long as it has users."""
    import uvicorn

    listener = socket.socket()
    listener.bind((HOST, 0))  # held from here on, so nobody else can take the port
    port = listener.getsockname()[1]
    os.environ["PREFECT_SERVER_API_HOST"], os.environ["PREFECT_SERVER_API_PORT"] = HOST, str(port)
    _write(_Server(process_id(), f"http://{HOST}:{port}/api"))
    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error")
    server = uvicorn.Server(config)
    threading.Thread(target=_watch, args=(server,), daemon=True).start()
    server.run(sockets=[listener])


def _watch(server: object) -> None:
    """End this process when it has no user. Not before it has started: a kill in its migrations would spoil them."""
    deadline = time.monotonic() + START_SECONDS
    while not getattr(server, "started", False):
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(LOOK_SECONDS)
    while _record().exists():  # else the home was removed
        time.sleep(LOOK_SECONDS)
        with contextlib.suppress(InputError), first_start(0.0):  # held: somebody joins, or ends this server
            if not _in_use():
                _record().unlink(missing_ok=True)
    os._exit(0)


def _write(server: _Server) -> None:
    write_text(_record(), json.dumps({"id": server.id, "url": server.url}))


if __name__ == "__main__":
    _serve()
