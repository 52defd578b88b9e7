"""Runs: who asked for which trials."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from infra.identity import process_id
from registry.ledger.clock import now
from registry.ledger.connection import Connected
from registry.ledger.schema import RunRow

RunKind = Literal["transfer", "retrain"]


class Runs(Connected):
    """The part of the ledger that remembers runs."""

    def begin_run(
        self,
        name: str,
        plan: Mapping[str, Any],
        kind: RunKind = "transfer",
        *,
        mlflow_run_id: str | None = None,
        run_id: str | None = None,
    ) -> str:
        """Note a new run and return its id (32 hex digits).

        Args:
            plan: what was asked for, as JSON.
            mlflow_run_id: the parent run, under which workers log.
            run_id: as the id of its flow run, so that it is known again; None: drawn.
        """
        run_id = run_id or secrets.token_hex(16)
        row = {
            "run_id": run_id,
            "name": name,
            "kind": kind,
            "plan": dict(plan),
            "status": "running",
            "owner": process_id(),
            "mlflow_run_id": mlflow_run_id,
        }

        def begin(session: Session) -> None:
            session.execute(self._insert(RunRow).values(started_at=now(), **row).on_conflict_do_nothing())

        self._write(begin)
        return run_id

    def end_run(
        self, run_id: str, status: Literal["finished", "failed", "killed"] = "finished", owner: str | None = None
    ) -> bool:
        """Note how a run ended; trials that it asked for stay. Returns whether it stands ended so.

        Args:
            owner: only while this process is its controller: another may have taken it over; None: whoever is.
        """
        mine = [RunRow.run_id == run_id, *([] if owner is None else [RunRow.owner == owner])]
        query = update(RunRow).where(*mine, RunRow.status == "running").values(status=status, ended_at=now())

        def end(session: Session) -> bool:
            session.execute(query.execution_options(synchronize_session=False))
            return session.scalar(select(RunRow.status).where(*mine)) == status

        return self._write(end)

    def resume_run(self, run_id: str, mlflow_run_id: str) -> None:
        """Note that a run is under way again, with this process as its controller: resumed, or restarted by Prefect."""
        values = {"status": "running", "ended_at": None, "owner": process_id(), "mlflow_run_id": mlflow_run_id}
        query = update(RunRow).where(RunRow.run_id == run_id).values(**values)
        self._write(lambda session: session.execute(query.execution_options(synchronize_session=False)) and None)

    def run(self, run_id: str) -> RunRow | None:
        """The row of a run, detached; None where there is none."""
        return self._read(lambda session: session.get(RunRow, run_id))

    def runs(self, status: str | None = None, limit: int | None = None) -> list[RunRow]:
        """Runs, newest first, detached."""
        query = select(RunRow).order_by(RunRow.started_at.desc(), RunRow.run_id).limit(limit)
        if status is not None:
            query = query.where(RunRow.status == status)
        return self._read(lambda session: list(session.scalars(query)))
