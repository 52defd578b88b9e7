"""Workers that are there, busy or not, and what of a run's trials is whose share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import and_, case, delete, func, or_, select
from sqlalchemy.orm import Session

from infra.identity import is_gone
from registry.ledger.claims import Claims, within
from registry.ledger.clock import now
from registry.ledger.schema import HELD, TrialRow, WorkerRow

PRESENT_SECONDS = 60.0  # that a worker which says nothing counts as there, unless it holds trials


@dataclass(frozen=True)
class Lot:
    """The open trials of a run in one group (`registry.ledger.rows.group_of`).

    Attributes:
        free: nobody holds them. open: those, and those that somebody works on.
    """

    group: str
    free: int
    open: int


class Workers(Claims):
    """The part of the ledger that knows who works, so that each takes a share."""

    def attend(
        self, name: str, owner: str | None = None, run_id: str | None = None, seconds: float = PRESENT_SECONDS
    ) -> None:
        """Say that a worker is there, or about to come, for `seconds` from now.

        Args:
            name: its own, such as its flow run's. owner: `infra.identity.process_id`, once its process has begun.
            run_id: the run that it works for; None: every run.
        """
        told = {"owner": owner, "run_id": run_id, "until": now(seconds)}
        insert = self._insert(WorkerRow).values(name=name, **told)

        def attend(session: Session) -> None:
            session.execute(delete(WorkerRow).where(WorkerRow.until <= now(), WorkerRow.name != name))
            session.execute(insert.on_conflict_do_update(index_elements=["name"], set_=told))

        self._write(attend)

    def depart(self, name: str) -> None:
        """Say that a worker has gone."""
        self._write(lambda session: session.execute(delete(WorkerRow).where(WorkerRow.name == name)) and None)

    def attending(self, run_id: str) -> set[str]:
        """Names of the workers of a run whose process has said that it is there."""
        query = select(WorkerRow.name).where(WorkerRow.owner.is_not(None), WorkerRow.run_id == run_id)
        return self._read(lambda session: set(session.scalars(query)))

    def workers(self, run_id: str) -> set[str]:
        """Who could work on trials of a run: who holds some, is there or is about to come; by owner, else by name."""
        query = select(WorkerRow.owner, WorkerRow.name).where(
            WorkerRow.until > now(), or_(WorkerRow.run_id.is_(None), WorkerRow.run_id == run_id)
        )
        there = {owner or name for owner, name in self._read(lambda session: session.execute(query).all())}
        return {one for one in there | self.holders(run_id) if not is_gone(one)}

    def holders(self, run_id: str) -> set[str]:
        """Who works on trials of a run, by `infra.identity.process_id`; those whose lease has ended left out."""
        query = (
            select(TrialRow.owner)
            .where(TrialRow.status.in_(HELD), TrialRow.owner.is_not(None), TrialRow.lease_until > now())
            .where(within(run_id, None))
            .distinct()
        )
        return self._read(lambda session: {str(owner) for owner in session.scalars(query)})

    def lots(self, run_id: str, without: Collection[str] = ()) -> list[Lot]:
        """What is open of a run, by group, those with the oldest free trial first; groups without a free one left out.

        Args:
            without: fingerprints to pass over, as in `claim`.
        """
        free = or_(TrialRow.status == "pending", self._lapsed())
        oldest = (func.min(case((free, column))) for column in (TrialRow.created_at, TrialRow.position))
        query = (
            select(TrialRow.group_key, func.sum(case((free, 1), else_=0)), func.count(), *oldest)
            .where(and_(TrialRow.status.in_(("pending", *HELD)), within(run_id, None, without)))
            .group_by(TrialRow.group_key)
        )
        rows = self._read(lambda session: session.execute(query).all())
        found = sorted((row for row in rows if row[1]), key=lambda row: (*row[3:], row[0]))
        return [Lot(group, int(free), int(open_)) for group, free, open_, *_ in found]
