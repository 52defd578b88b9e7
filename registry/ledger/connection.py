"""What every part of the ledger stands on: units of work that wait for a database that is away for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from infra.errors import InputError
from infra.settings import settings
from registry.ledger.database import cause, shown

Found = TypeVar("Found")
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
LAST_SECONDS = 5.0  # of waiting by one who is about to end
_LOGGER = logging.getLogger("dept.ledger")
# PostgreSQL's words for: shutting down, crashed, starting up, rested too long, no more room; try again: serialization
# failure, deadlock. Classes 08: the connection is lost.
_AWAY = ("57P01", "57P02", "57P03", "57P05", "25P03", "53300", "40001", "40P01")


class Connected:
    """A database, and how the ledger's parts ask it.

    Args:
        engine: see `registry.ledger.database.open_engine`.
        on_wait: told in one line when the database is away and when it is back; default a warning of the logger
            dept.ledger.
    """

    def __init__(self, engine: Engine, on_wait: Callable[[str], None] | None = None) -> None:
        self.engine = engine
        self.name = shown(engine.url)
        self.wait_seconds = settings().ledger_patience
        self._on_wait = on_wait or _LOGGER.warning
        dialect = postgresql if engine.dialect.name == "postgresql" else sqlite
        self._insert = dialect.insert

    def close(self) -> None:
        """Give connections back."""
        self.engine.dispose()

    def hurry(self) -> None:
        """Hardly wait any more: the process is about to end."""
        self.wait_seconds = min(self.wait_seconds, LAST_SECONDS)

    def _read(self, work: Callable[[Session], Found]) -> Found:
        return self._patiently(work, write=False)

    def _write(self, work: Callable[[Session], Found]) -> Found:
        """Do `work` in one transaction; it may be done again, so a second time must find what the first one did."""
        return self._patiently(work, write=True)

    def _patiently(self, work: Callable[[Session], Found], write: bool) -> Found:
        begun, pause, told = time.monotonic(), FIRST_PAUSE, False
        try:
            while True:
                try:
                    found = self._once(work, write)
                    break
                except IntegrityError as error:
                    raise InputError(f"ledger {self.name}: refused ({cause(error, self.engine.url)})") from error
                except DBAPIError as error:
                    waited = time.monotonic() - begun
                    if not is_away(error) or waited + pause > self.wait_seconds:
                        raise self._in_vain(error, waited if told else None) from error
                    if not told and waited > 1:
                        why, most = cause(error, self.engine.url), self.wait_seconds
                        self._on_wait(f"ledger {self.name}: away ({why}); waiting for it, up to {most:.0f} s")
                        told = True
                time.sleep(pause)
                pause = min(LONGEST_PAUSE, pause * 2)
        except BaseException:  # an interrupt as well
            if told:
                self.hurry()  # what is undone on the way out need not wait as long again
            raise
        if told:
            self._on_wait(f"ledger {self.name}: back after {time.monotonic() - begun:.0f} s")
        return found

    def _in_vain(self, error: DBAPIError, waited: float | None) -> InputError:
        how = "" if waited is None else f" (waited {waited:.0f} s)"
        return InputError(
            f"ledger {self.name}: {cause(error, self.engine.url)}{how}. Remedy: free disk space, or check that the "
            "database can be reached and written; the next run goes on from here"
        )

    def _once(self, work: Callable[[Session], Found], write: bool) -> Found:
        with self.engine.connect().execution_options(immediate=write) as connection, connection.begin():
            with Session(connection, expire_on_commit=False) as session:
                found = work(session)
                session.flush()
                session.expunge_all()
            return found


def is_away(error: DBAPIError) -> bool:
    """Whether the same call may succeed in a while: the server is away, or another transaction was in the way."""
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state in _AWAY or state.startswith("08")
    if type(error.orig).__module__.startswith("sqlite3"):
        return any(word in str(error.orig) for word in ("database is locked", "database table is locked"))
    return type(error.orig).__name__ == "OperationalError"  # psycopg gives no state where it got no connection
