"""A Prefect API for flows that run in this process: the server in reach, or a temporary one that ends with us."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from rich.console import Console

from infra.errors import InputError
from infra.settings import home

START_SECONDS = 180.0  # a first start makes the database: 10 s on a quiet machine, more on a busy one


@contextmanager
def prefect_api() -> Iterator[str]:
    """Let flows of this process find an API while the block runs; yields its URL.

    Prefect's own ephemeral server outlives a process that is killed; this one does not.

    Raises:
        InputError: no server answers and none could be started.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

    configured = PREFECT_API_URL.value()
    if configured and _answers(configured):
        yield configured
        return
    if configured:
        Console(stderr=True).print(f"Prefect server {configured} does not answer; using a temporary one.")
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    (home() / "logs").mkdir(parents=True, exist_ok=True)
    log = home() / "logs" / "prefect-temporary.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "infra.temporary_server", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=_environment(port),
            start_new_session=True,
        )  # so that Ctrl-C reaches the flow first
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(url):
            if server.poll() is not None or time.monotonic() > deadline:
                raise InputError(
                    f"no Prefect server could be started for this run; see {log}. Remedy: free memory and "
                    "disk space, or start one (`dept up`)"
                )
            time.sleep(0.1)
        # No log lines to this server: nobody can read them there, and the last ones would miss it at the end.
        with temporary_settings({PREFECT_API_URL: url, PREFECT_LOGGING_TO_API_ENABLED: False}):
            yield url
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _environment(port: int) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "PREFECT_PROFILE")}
    return own | {
        "PREFECT_HOME": str(home() / "prefect"),
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_SERVER_API_PORT": str(port),
    }


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(port: int) -> None:
    """Be the temporary server, for as long as the process that started it lives."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    import uvicorn

    uvicorn.run("prefect.server.api.server:create_app", factory=True, host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
