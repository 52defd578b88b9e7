"""Open the ledger's database and bring its tables up to date; safe when several processes do so at once."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from filelock import FileLock
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from infra.errors import InputError
from infra.secrets import masked, masked_address
from registry.ledger import migrations

_log = logging.getLogger("dept.ledger")
IDLE_SECONDS = 60  # how long PostgreSQL lets a transaction rest
BUSY_MILLISECONDS = 30_000  # how long a writer waits for another
ADVISORY = 0x64657074  # "dept": the lock under which PostgreSQL is migrated
_OLDEST_SQLITE = (3, 35, 0)  # UPDATE ... RETURNING
_KINDS = ("sqlite", "postgresql")


def open_engine(url: str) -> Engine:
    """Engine of an SQLite file or a PostgreSQL database whose tables are at the newest revision.

    Raises:
        InputError: an URL that cannot be read, a missing driver, an unreachable or damaged database. Passwords are
            masked.
    """
    engine = _engine(url)
    _forked.add(engine)
    try:
        _migrate(engine)
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        engine.dispose()
        file = engine.dialect.name == "sqlite"
        remedy = (
            "check the path, its rights and free space; a damaged ledger file can be moved away, then trials are done "
            "again"
            if file
            else "check that the server runs, its name, port and user, and that the database exists"
        )
        raise InputError(
            f"ledger {shown(engine.url)}: cannot be opened ({cause(error, engine.url)}). Remedy: {remedy}"
        ) from error
    return engine


_forked: weakref.WeakSet[Engine] = weakref.WeakSet()


def _drop_inherited() -> None:
    """In a forked child: let go of the parent's connections without touching them."""
    for engine in _forked:
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_inherited)


def cause(error: BaseException, url: URL | None = None) -> str:
    """The driver's own first line, without SQLAlchemy's statement and links, and without the URL's password."""
    told = (str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__])[0]
    password = str(url.password) if url is not None and url.password else ""
    for form in {password, quote(password), quote_plus(password)} - {""}:
        told = told.replace(form, "***")
    return told


def shown(url: URL) -> str:
    """An URL for people: without the password, and without secrets of its query."""
    return masked(url.render_as_string(hide_password=True))


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:  # its text may hold a password, so it is not shown
        raise InputError(
            f"ledger: {masked_address(url)!r} is no database URL. Remedy: sqlite:///folder/ledger.db or "
            "postgresql+psycopg://user@host/name"
        ) from error
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")  # the driver of the extra `postgres`
    try:
        if parsed.get_backend_name() not in _KINDS:
            raise NoSuchModuleError
        return _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed)
    except (ArgumentError, NoSuchModuleError) as error:
        known = parsed.get_backend_name() in _KINDS
        why = f"no driver {parsed.get_driver_name()}" if known else f"a ledger is kept in {' or '.join(_KINDS)}"
        raise InputError(
            f"ledger: {shown(parsed)!r} is no database URL ({why}). Remedy: sqlite:///folder/ledger.db or "
            "postgresql+psycopg://user@host/name"
        ) from error
    except ImportError as error:
        raise InputError(
            f"ledger {shown(parsed)}: the driver {error.name or parsed.get_driver_name()} is not installed. Remedy: "
            f"pip install {'dept-transfer[postgres]' if parsed.get_driver_name() == 'psycopg' else error.name}"
        ) from error


def _postgresql(url: URL) -> Engine:
    engine = create_engine(
        url,
        max_overflow=-1,  # as many connections as there are threads
        connect_args={"connect_timeout": 10} if "connect_timeout" not in url.query else {},
        isolation_level="READ COMMITTED",  # a claim passes over rows that were taken meanwhile
    )
    event.listen(engine, "connect", _limit)
    return engine


def _limit(connection: Any, _: Any) -> None:
    # A worker that was stopped, or lost its network, in the middle of a transaction must not hold rows for ever.
    connection.autocommit = True
    connection.execute(f"set idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
    connection.autocommit = False


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise InputError("ledger: an SQLite ledger needs a file. Remedy: sqlite:///folder/ledger.db")
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise InputError(
            f"ledger: SQLite {sqlite3.sqlite_version} is older than {'.'.join(map(str, _OLDEST_SQLITE))}. Remedy: a "
            "newer Python, or DEPT_LEDGER_URL=postgresql+psycopg://..."
        )
    # Kept open: when the last connection of a file is closed, SQLite writes its log back, which costs tens of ms.
    engine = create_engine(url, max_overflow=-1, connect_args={"timeout": BUSY_MILLISECONDS / 1000})
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


def _migrate(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        _make_file(engine)
    with engine.connect() as connection:
        if migrations.is_current(connection):  # the usual case: nothing to write, so nobody to wait for
            return
    with _alone(engine):
        _keep_copy(engine)
        _upgrade(engine)


def _upgrade(engine: Engine) -> None:
    with engine.connect().execution_options(immediate=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": ADVISORY})
        if not migrations.is_current(connection):
            migrations.upgrade(connection)


def _keep_copy(engine: Engine) -> None:
    """Copy an SQLite ledger of an older layout to a file beside it, before its tables are changed."""
    if engine.dialect.name != "sqlite":
        return
    with engine.connect() as connection:
        if migrations.is_current(connection) or not {"trials", "dept_trials"} & set(
            inspect(connection).get_table_names()
        ):
            return
    file = Path(engine.url.database or "").absolute()
    copy = file.with_name(f"{file.name}.{time.strftime('%Y%m%d-%H%M%S')}.old")
    with contextlib.closing(sqlite3.connect(file)) as here, contextlib.closing(sqlite3.connect(copy)) as there:
        here.backup(there)
    _log.warning("ledger %s: is brought to the layout of this version; as it was, it is kept as %s", file, copy)


def _make_file(engine: Engine) -> None:
    Path(engine.url.database or "").absolute().parent.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    if engine.dialect.name != "sqlite":
        yield
        return
    with FileLock(f"{Path(engine.url.database or '').absolute()}.lock"):
        raw = engine.raw_connection()
        try:  # outside any transaction; the mode is a property of the file and stays
            raw.cursor().execute("pragma journal_mode = wal")
        finally:
            raw.close()
        yield
