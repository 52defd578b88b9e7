"""Opening an MLflow store: its tables are made by one process, and SQLite is set for many small writes."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse, urlsplit

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from infra.errors import InputError
from infra.files import new_file
from infra.secrets import masked
from registry.ledger.database import ADVISORY
from registry.tracking.patience import first_line

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_opened: set[str] = set()  # SQLite files that this process writes runs to


def is_server(uri: str) -> bool:
    """Whether a tracking URI names a server rather than a database."""
    return urlparse(uri).scheme in ("http", "https")


def without_credentials(uri: str) -> str:
    """The address alone; user and password become what MLflow's client reads."""
    parts = urlsplit(uri)
    if parts.username is not None:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def open_store(uri: str) -> None:
    """Check a tracking URI and make the tables of a new database.

    Raises:
        InputError: no such kind of URI, or a database that cannot be opened.
    """
    kind = urlparse(uri).scheme.split("+")[0]
    if kind not in (*DATABASES, "http", "https"):
        raise InputError(
            f"MLflow: {masked(uri)!r} is no tracking URI of a server or database. Remedy: http://host:port or "
            "sqlite:////folder/mlflow.db"
        )
    if is_server(uri):
        return
    # MLflow reports each of its 50 migrations of a new file, and each failed request with a traceback.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    try:
        # Processes that meet a new database at the same time would race.
        with _sqlite(uri) if kind == "sqlite" else _database(uri):
            MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)
    except (SQLAlchemyError, OSError, sqlite3.Error, MlflowException) as error:
        raise InputError(
            f"MLflow store {masked(uri)}: cannot be opened ({first_line(error)}). Remedy: check the path "
            "and free space, or move a damaged file away"
        ) from None


@contextmanager
def _sqlite(uri: str) -> Iterator[None]:
    name = make_url(uri).database
    if not name:
        raise InputError(f"MLflow: {masked(uri)!r} names no file. Remedy: sqlite:////folder/mlflow.db")
    file = Path(name).absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    _opened.add(str(file.resolve()))
    with FileLock(f"{file}.lock"):
        if not file.exists() or file.stat().st_size == 0:
            _make(file)
        with sqlite3.connect(file) as connection:  # MLflow would try a damaged file for minutes
            connection.execute("pragma schema_version")
        connection.close()
        yield
        with sqlite3.connect(file) as connection:
            connection.execute("pragma journal_mode = wal")
        connection.close()


def _make(file: Path) -> None:
    """A new store, whole or not at all: SQLite commits MLflow's migrations in parts, which a kill would leave."""
    for left in file.parent.glob(f".{file.name}.new-*"):
        left.unlink()  # of a process that was killed here; the lock is ours
    with new_file(file) as temporary:
        store = SqlAlchemyStore(f"sqlite:///{temporary}", str(file.parent / "artifacts"))
        store.engine.dispose()


@contextmanager
def _database(uri: str) -> Iterator[None]:
    """A connection of our own first: MLflow would try a dead address for an hour."""
    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            locks = engine.dialect.name == "postgresql"
            if locks:
                connection.execute(text(f"select pg_advisory_lock({ADVISORY})"))
            try:
                yield
            finally:
                if locks:
                    connection.execute(text(f"select pg_advisory_unlock({ADVISORY})"))
    finally:
        engine.dispose()


@event.listens_for(Engine, "connect")
def _fast_commits(connection: Any, _record: Any) -> None:
    """Commits of MLflow's SQLite file need not wait for the disk: with its log no commit can damage the file.

    A power failure may lose the last runs; the ledger knows them, and they are written again when asked for.
    """
    if isinstance(connection, sqlite3.Connection):
        file = connection.execute("pragma database_list").fetchone()[2]
        if file and str(Path(file).resolve()) in _opened:
            connection.execute("pragma synchronous = normal")
