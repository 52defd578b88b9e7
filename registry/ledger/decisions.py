"""Decisions about champions, and locks that hold across machines."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from infra.errors import InputError
from infra.identity import is_gone, process_id
from registry.ledger.clock import now
from registry.ledger.connection import Connected
from registry.ledger.schema import VERDICTS, DecisionRow, LockRow

LOCK_SECONDS = 120.0


class Decisions(Connected):
    """The part of the ledger that champions need."""

    def record_decision(self, model: str, task: str, decision: str, reason: str, **numbers: Any) -> DecisionRow:
        """Append to the audit trail.

        Args:
            decision: one of `registry.ledger.schema.VERDICTS`.
            numbers: the other columns of `DecisionRow`.

        Raises:
            InputError: a verdict that the ledger does not know.
        """
        if decision not in VERDICTS:
            raise InputError(
                f"ledger: decision {decision!r} about {model} was not recorded: the verdicts are {', '.join(VERDICTS)}"
            )
        uid = secrets.token_hex(16)
        known = {"model": model, "task": task, "decision": decision, "reason": reason, "by": "rule", **numbers}

        def record(session: Session) -> DecisionRow:
            query = select(DecisionRow).where(DecisionRow.uid == uid)
            if (row := session.scalar(query)) is None:  # else the answer of a first try was lost
                session.add(DecisionRow(uid=uid, at=now(), **known))
                session.flush()
                row = session.scalar(query.execution_options(populate_existing=True))
                assert row is not None
            return row

        return self._write(record)

    def decisions(
        self, model: str | None = None, task: str | None = None, limit: int | None = None
    ) -> list[DecisionRow]:
        """The audit trail, oldest first; `limit` keeps the newest."""
        query = select(DecisionRow).order_by(DecisionRow.id.desc()).limit(limit)
        if model is not None:
            query = query.where(DecisionRow.model == model)
        if task is not None:
            query = query.where(DecisionRow.task == task)
        return self._read(lambda session: list(session.scalars(query)))[::-1]

    @contextlib.contextmanager
    def lock(self, name: str, wait_seconds: float = 60.0, lease_seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Hold a name alone, on all machines that share the ledger; no transaction stays open meanwhile.

        A holder that is a dead process of this machine, or whose lease has ended by the database's clock, is replaced.

        Raises:
            InputError: another holds it for longer than `wait_seconds`.
        """
        token, deadline = secrets.token_hex(16), time.monotonic() + wait_seconds
        while (holder := self._take_lock(name, token, lease_seconds)) is not None:
            if time.monotonic() > deadline:
                raise InputError(
                    f"ledger: {name} has been held by {holder} for {wait_seconds:.0f} s. Remedy: wait, or end that "
                    "process"
                )
            time.sleep(0.1)
        try:
            yield
        finally:
            self._write(lambda session: session.execute(delete(LockRow).where(LockRow.token == token)) and None)

    def _take_lock(self, name: str, token: str, lease_seconds: float) -> str | None:
        """Try to take a lock; returns who holds it, None if it is ours."""

        def take(session: Session) -> str | None:
            values = {"name": name, "token": token, "owner": process_id(), "until": now(lease_seconds)}
            session.execute(
                delete(LockRow).where(LockRow.name == name, or_(LockRow.until <= now(), _dead(session, name)))
            )
            session.execute(self._insert(LockRow).values(**values).on_conflict_do_nothing())
            row = session.execute(select(LockRow.token, LockRow.owner).where(LockRow.name == name)).one_or_none()
            return None if row is not None and row[0] == token else row[1] if row is not None else "another"

        return self._write(take)


def _dead(session: Session, name: str) -> Any:
    owner = session.scalar(select(LockRow.owner).where(LockRow.name == name))
    return LockRow.owner == (owner if owner is not None and is_gone(owner) else "")
