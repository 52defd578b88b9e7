"""Real servers that tests stop and start again: PostgreSQL, and MLflow's tracking server."""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from sqlalchemy import create_engine, make_url, text

START_SECONDS = 90
_count = itertools.count()


def _await(url, process, what):
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except OSError:
            assert process.poll() is None, f"{what} ended"
            assert time.monotonic() < deadline, f"{what} did not answer within {START_SECONDS} s"
            time.sleep(0.1)


class PostgresServer:
    """A PostgreSQL for a test session; `url()` is a database that was made for one test."""

    def __init__(self, address, handle=None):
        self.address, self.handle = make_url(address).set(drivername="postgresql+psycopg"), handle
        self.say("alter system set fsync = off", "select pg_reload_conf()") if handle else None

    def say(self, *statements):
        engine = create_engine(self.address, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()

    def url(self, template=None):
        name = f"dept_test_{os.getpid()}_{next(_count)}"
        self.say(f"create database {name}" + (f" template {template}" if template else ""))
        return self.address.set(database=name).render_as_string(hide_password=False)

    def stop(self):
        """As a crash would: at once."""
        pid = self.handle.get_pid()
        os.kill(pid, signal.SIGQUIT)
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(pid, 0)
                time.sleep(0.05)

    def start(self):
        self.handle.ensure_postgres_running()


class DebianPostgres:
    """Debian's PostgreSQL 15, with what Prefect's server needs of it; below a folder that others may enter."""

    BIN = Path("/usr/lib/postgresql/15/bin")

    def __init__(self, folder):
        self.data = folder / "postgres"
        self.data.mkdir()
        shutil.chown(self.data, "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._as_postgres("initdb", "--auth=trust", "--encoding=UTF8", "-D", str(self.data))
        options = f"-p {self.port} -h 127.0.0.1 -k {self.data} -c fsync=off -c max_connections=300"
        self._as_postgres("pg_ctl", "-D", str(self.data), "-l", str(self.data / "log"), "-w", "-o", options, "start")

    def url(self, name, driver="postgresql+psycopg"):
        """A new database."""
        self._as_postgres("createdb", "-h", "127.0.0.1", "-p", str(self.port), name)
        return f"{driver}://postgres@127.0.0.1:{self.port}/{name}"

    def stop(self):
        self._as_postgres("pg_ctl", "-D", str(self.data), "-m", "immediate", "stop")

    def _as_postgres(self, program, *arguments):
        command = ["runuser", "-u", "postgres", "--", str(self.BIN / program), *arguments]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL)


class S3Server:
    """moto's S3 server; `bucket()` is a new one as an URL, `environment` what clients need to find it."""

    def __init__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "dept",
            "AWS_SECRET_ACCESS_KEY": "dept",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self):
        command = [sys.executable, "-m", "moto.server", "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _await(f"{self.environment['AWS_ENDPOINT_URL']}/moto-api/", self.process, "moto's server")

    def bucket(self):
        name = f"dept-test-{os.getpid()}-{next(_count)}"
        urllib.request.urlopen(
            urllib.request.Request(f"{self.environment['AWS_ENDPOINT_URL']}/{name}", method="PUT"), timeout=30
        )
        return f"s3://{name}/dept"

    def stop(self):
        self.process.kill()
        self.process.wait()


class MlflowServer:
    """An MLflow server over a database, by default the SQLite file mlflow.db of a folder; it keeps its port."""

    def __init__(self, folder, store=None):
        self.folder, self.store = folder, store or f"sqlite:///{folder / 'mlflow.db'}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", self.store),
            *("--artifacts-destination", str(self.folder / "files")),
        ]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _await(f"{self.uri}/health", self.process, "the MLflow server")

    def stop(self):
        """As a crash would: at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
