"""Locks that hold across machines: a lease by the database's clock, renewed while its holder waits for others."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from infra.errors import InputError
from infra.identity import is_gone, process_id
from infra.settings import settings
from registry.ledger.clock import now
from registry.ledger.connection import Connected
from registry.ledger.schema import LockRow

LOCK_SECONDS = 120.0
_RENEWALS = 6  # in a lease, at most


class LockLostError(Exception):
    """A lock's lease ended and another took it: what was to be done under it must not be done."""


class Held:
    """A lock that is held.

    Args:
        prolong: writes the lease anew; False where another holds the lock.
    """

    def __init__(self, name: str, token: str, lease_seconds: float, prolong: Callable[[str, float], bool]) -> None:
        self.name, self.token, self.lease_seconds = name, token, lease_seconds
        self._prolong, self._renewed = prolong, time.monotonic()

    def waits(self) -> None:
        """To be called again and again while something else is waited for; `renew`, but only now and then.

        Raises:
            LockLostError: another holds the lock.
        """
        if time.monotonic() - self._renewed >= self.lease_seconds / _RENEWALS:
            self.renew()

    def renew(self) -> None:
        """Hold the lock for a whole lease from now.

        Raises:
            LockLostError: another holds the lock.
        """
        if not self._prolong(self.token, self.lease_seconds):
            raise LockLostError(self.name)
        self._renewed = time.monotonic()


class Locks(Connected):
    """The part of the ledger that gives names to one holder at a time."""

    @contextlib.contextmanager
    def lock(self, name: str, wait_seconds: float | None = None, lease_seconds: float = LOCK_SECONDS) -> Iterator[Held]:
        """Hold a name alone, on all machines that share the ledger; no transaction stays open meanwhile.

        A holder that is a dead process of this machine, or whose lease has ended by the database's clock, is replaced.

        Args:
            wait_seconds: how long each holder is waited for; None: as long as a holder may wait for MLflow or the
                ledger.

        Raises:
            InputError: another holds it for longer than `wait_seconds`.
        """
        if wait_seconds is None:
            wait_seconds = max(settings().mlflow_patience, settings().ledger_patience)
        token, begun, before = secrets.token_hex(16), time.monotonic(), ""
        while (holder := self._take_lock(name, token, lease_seconds)) is not None:
            theirs, owner = holder
            if theirs != before:
                begun, before = time.monotonic(), theirs
            if time.monotonic() - begun > wait_seconds:
                raise InputError(
                    f"ledger: {name} has been held by {owner} for {wait_seconds:.0f} s. Remedy: wait, or end that "
                    "process"
                )
            time.sleep(0.1)
        try:
            yield Held(name, token, lease_seconds, self._prolong)
        finally:
            self._write(lambda session: session.execute(delete(LockRow).where(LockRow.token == token)) and None)

    def _prolong(self, token: str, lease_seconds: float) -> bool:
        return self._write(lambda session: prolonged(session, token, lease_seconds))

    def _take_lock(self, name: str, token: str, lease_seconds: float) -> tuple[str, str] | None:
        """Try to take a lock; returns the token and the owner of who holds it, None if it is ours."""

        def take(session: Session) -> tuple[str, str] | None:
            values = {"name": name, "token": token, "owner": process_id(), "until": now(lease_seconds)}
            session.execute(
                delete(LockRow).where(LockRow.name == name, or_(LockRow.until <= now(), _dead(session, name)))
            )
            session.execute(self._insert(LockRow).values(**values).on_conflict_do_nothing())
            row = session.execute(select(LockRow.token, LockRow.owner).where(LockRow.name == name)).one_or_none()
            if row is None:
                return "", "another"
            return None if row[0] == token else (row[0], row[1])

        return self._write(take)


def prolonged(session: Session, token: str, lease_seconds: float) -> bool:
    """Renew a lock, and keep it from others until the transaction ends; False where another holds it."""
    query = update(LockRow).where(LockRow.token == token).values(until=now(lease_seconds))
    found = session.execute(query.execution_options(synchronize_session=False))
    return bool(found.rowcount)  # type: ignore[attr-defined]


def _dead(session: Session, name: str) -> Any:
    owner = session.scalar(select(LockRow.owner).where(LockRow.name == name))
    return LockRow.owner == (owner if owner is not None and is_gone(owner) else "")
