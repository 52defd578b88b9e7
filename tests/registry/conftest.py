"""A ledger on each kind of database (`ledger_url` has its tables, `new_url` is empty), MLflow stores, a small world."""

import shutil
import subprocess
import sys

import pytest
from sqlalchemy import make_url

from infra.settings import home
from registry.ledger import Ledger
from registry.tracking import Tracker
from tests.registry.promotion_helpers import new_world
from tests.registry.registry_helpers import new_store, save_tiny_backbone
from tests.servers import MlflowServer

DATABASES = ["sqlite", "postgresql"]


@pytest.fixture(scope="session")
def templates(tmp_path_factory):
    """What a new ledger is copied from, by kind of database: migrations run once a session."""
    return {"folder": tmp_path_factory.mktemp("templates")}


@pytest.fixture(params=DATABASES)
def database(request):
    """The kind of database that a test runs on."""
    return request.param


@pytest.fixture
def new_url(database, request, tmp_path):
    """An empty database."""
    if database == "sqlite":
        return f"sqlite:///{tmp_path / 'new.db'}"
    return request.getfixturevalue("postgres").url()


@pytest.fixture
def ledger_url(database, request, tmp_path, templates):
    """A database with the ledger's tables."""
    if database == "sqlite":
        if database not in templates:
            templates[database] = templates["folder"] / "ledger.db"
            Ledger.open(f"sqlite:///{templates[database]}").close()
        shutil.copy(templates[database], tmp_path / "ledger.db")
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server = request.getfixturevalue("postgres")
    if database not in templates:
        made = server.url()
        Ledger.open(made).close()
        templates[database] = make_url(made).database
    return server.url(templates[database])


@pytest.fixture
def ledger(ledger_url):
    opened = Ledger.open(ledger_url)
    yield opened
    opened.close()


@pytest.fixture
def children():
    """Start Python processes that run a body with `registry.ledger` at hand; they are ended with the test."""
    running = []

    def start(body, *arguments):
        child = subprocess.Popen(
            [sys.executable, "-c", _HEAD + body, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(child)
        return child

    yield start
    for child in running:
        child.kill()
        child.communicate()


_HEAD = """
import json, sys, time
from infra.identity import process_id
from registry.ledger import Ledger
from tests.registry.ledger_helpers import make_outcome, make_spec
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    new_store(folder)
    running = MlflowServer(folder)
    try:
        running.start()
        yield running.uri
    finally:
        running.stop()


@pytest.fixture
def local():
    new_store(home())
    return Tracker()


@pytest.fixture
def world():
    """A task with rows, finished trials and answers of adapters, without a backbone."""
    return new_world()


@pytest.fixture
def requests_sent(monkeypatch):
    """Method and path of each request that this process sends, by any thread."""
    import requests

    sent, send = [], requests.Session.send

    def counted(session, request, **options):
        sent.append((request.method, request.path_url.partition("?")[0]))
        return send(session, request, **options)

    monkeypatch.setattr(requests.Session, "send", counted)
    return sent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny backbone."""
    return save_tiny_backbone(tmp_path_factory.mktemp("backbones") / "tiny")


@pytest.fixture
def mlflow_home(tmp_path, monkeypatch):
    """A home with an MLflow store of its own, whatever the environment says."""
    monkeypatch.setenv("DEPT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    new_store(home())
