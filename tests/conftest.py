"""Fixtures for every test: no hub, no telemetry, a home of its own."""

import logging
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from tests.tiny import save_backbone

torch.set_num_threads(1)  # tiny models: a second thread costs more than it brings


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DEPT_LOCKS", str(tmp_path / "locks"))  # another test's worker is in nobody's way
    monkeypatch.setenv("DEPT_LINGER_SECONDS", "0")  # a worker ends when nothing is left
    for name in ("MLFLOW_TRACKING_URI", "DEPT_LEDGER_URL", "DEPT_STORE"):
        monkeypatch.delenv(name, raising=False)


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
