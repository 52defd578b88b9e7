"""How the servers are started: port, command line and environment."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import sys

from infra import devices
from infra.errors import InputError
from infra.prefect_api import GPU
from infra.settings import exported, home, settings

HOST = "127.0.0.1"


def port_of(name: str, given: int | None, usual: int) -> int:
    """The port of a server: as given, else $PREFECT_PORT or $MLFLOW_PORT, else the usual one.

    Raises:
        InputError: not a port.
    """
    variable = f"{name.upper()}_PORT"
    text = str(given) if given is not None else str(getattr(settings(), variable.lower()))
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise InputError(f"{variable}={text}: not a port; give a number from 1024 to 65535")
    return int(text)


def need_free(name: str, port: int) -> None:
    """Raises InputError if something listens on the port or it may not be used."""
    remedy = f"choose another: {name.upper()}_PORT={port + 1 if port < 65535 else port - 1} make up"
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex((HOST, port)) == 0:
            raise InputError(f"port {port} (for {name}) is taken by another program; {remedy}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(f"port {port} (for {name}) cannot be used ({error.strerror}); {remedy}") from error


def prefect_command(port: int) -> tuple[list[str], str]:
    """Command line and address of the Prefect server."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    return command, f"http://{HOST}:{port}"


def mlflow_command(port: int) -> tuple[list[str], str]:
    """Command line and address of the MLflow server.

    The database is made by the server's first process alone, before its workers start: no race of migrations.
    """
    database, artifacts = home() / "mlflow.db", home() / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # kept in the file: readers and a writer do not block each other
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{database}"]
    # Clients write artifacts themselves: they share the disk, and files need not pass through the server.
    return [*command, "--no-serve-artifacts", "--default-artifact-root", artifacts.as_uri()], f"http://{HOST}:{port}"


def worker_command(pool: str, name: str) -> list[str]:
    """Command line of Prefect's worker of a pool; of `gpu` it takes no more flow runs at once than devices."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", name, "--type", "process"]
    return [*command, "--limit", str(max(1, len(devices.every()[1])))] if pool == GPU else command


def environment(**more: str) -> dict[str, str]:
    """Ours, without the Prefect profile and server that the user may have chosen for other work."""
    chosen = {"PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH", "PREFECT_PORT"}
    own = {name: value for name, value in os.environ.items() if name not in chosen}
    direct = ",".join(filter(None, [own.get("NO_PROXY") or own.get("no_proxy"), HOST, "localhost"]))
    return (
        own
        | {name: value for name, value in exported().items() if name not in chosen}
        | {
            "PREFECT_HOME": str(home() / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            # Small batches keep the write transactions short, or flow runs stall on the SQLite database.
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
            "DEPT_HOME": str(home()),
            "PYTHONUNBUFFERED": "1",
            "NO_PROXY": direct,
            "no_proxy": direct,
            **more,
        }
    )
