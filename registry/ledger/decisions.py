"""Decisions about champions."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from infra.errors import InputError
from registry.ledger.clock import now
from registry.ledger.connection import Connected
from registry.ledger.locks import Held, LockLostError, prolonged
from registry.ledger.schema import VERDICTS, DecisionRow


class Decisions(Connected):
    """The part of the ledger that champions need."""

    def record_decision(
        self, model: str, task: str, decision: str, reason: str, *, held: Held | None = None, **numbers: Any
    ) -> DecisionRow:
        """Append to the audit trail.

        Args:
            decision: one of `registry.ledger.schema.VERDICTS`.
            held: the lock under which it was decided; it is checked in the transaction that writes the decision.
            numbers: the other columns of `DecisionRow`.

        Raises:
            InputError: a verdict that the ledger does not know.
            LockLostError: another has taken the lock meanwhile; nothing is written.
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
                if held is not None and not prolonged(session, held.token, held.lease_seconds):
                    raise LockLostError(held.name)
                session.add(DecisionRow(uid=uid, at=now(), **known))
                session.flush()
                row = session.scalar(query.execution_options(populate_existing=True))
                assert row is not None
            return row

        return self._write(record)

    def now(self) -> datetime:
        """The time by the database's clock, by which every time of the ledger is told."""
        return self._read(lambda session: session.execute(select(now())).scalar_one())

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
