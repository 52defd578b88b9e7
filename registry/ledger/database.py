"""Open the ledger's database and bring its tables up to date; safe when several processes do so at once."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from infra.errors import InputError
from registry.ledger import migrations

BUSY_MILLISECONDS = 30_000  # how long a writer waits for another
_ADVISORY = 0x64657074  # "dept": the lock under which PostgreSQL is migrated


def open_engine(url: str) -> Engine:
    """Engine of an SQLite file or a PostgreSQL database whose tables are at the newest revision.

    Raises:
        InputError: an URL that cannot be read, a missing driver, an unreachable or damaged database.
    """
    try:
        parsed = make_url(url)
        engine = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else create_engine(parsed, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError) as error:
        raise InputError(
            f"ledger: {url!r} is no database URL ({error}). Remedy: sqlite:///folder/ledger.db or "
            "postgresql+psycopg://user@host/name"
        ) from error
    except ModuleNotFoundError as error:
        raise InputError(
            f"ledger {parsed}: the driver {error.name} is not installed. Remedy: pip install "
            f"{'psycopg[binary]' if error.name == 'psycopg' else error.name}"
        ) from error
    try:
        with _alone(engine), engine.connect().execution_options(immediate=True) as connection, connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _ADVISORY})
            if not migrations.is_current(connection):
                migrations.upgrade(connection)
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise InputError(
            f"ledger {parsed}: cannot be opened ({cause(error)}). Remedy: check the path or the server; a "
            "damaged ledger file can be moved away, then trials are done again"
        ) from error
    return engine


def cause(error: BaseException) -> str:
    """The driver's own first line, without SQLAlchemy's statement and links."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise InputError("ledger: an SQLite ledger needs a file. Remedy: sqlite:///folder/ledger.db")
    # No pool: a connection costs less than a millisecond, and none is ever shared by threads or forked.
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_MILLISECONDS / 1000})
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _: Any) -> None:
    # The driver's own rule begins no transaction before DDL: a kill within a migration would leave half the tables.
    connection.isolation_level = None
    connection.execute(f"pragma busy_timeout = {BUSY_MILLISECONDS}")
    connection.execute("pragma foreign_keys = on")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("begin immediate" if connection.get_execution_options().get("immediate") else "begin")


@contextlib.contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    if engine.dialect.name != "sqlite":
        yield
        return
    file = Path(engine.url.database or "").absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        raw = engine.raw_connection()
        try:  # outside any transaction; the mode is a property of the file and stays
            raw.cursor().execute("pragma journal_mode = wal")
        finally:
            raw.close()
        yield
