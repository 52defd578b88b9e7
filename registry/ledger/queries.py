"""What the ledger knows: rows, outcomes, counts."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, select
from sqlalchemy.orm import Session, defer

from dept.trial import TrialOutcome
from infra.errors import InputError
from registry.ledger.claims import chunks
from registry.ledger.clock import now
from registry.ledger.connection import Connected
from registry.ledger.rows import outcome_of
from registry.ledger.schema import HELD, RunTrialRow, TrialRow

OPEN = ("pending", "running", "trained")


class Queries(Connected):
    """The part of the ledger that is only read."""

    def get(self, fingerprint: str) -> TrialRow | None:
        """The row of a trial, detached; None where there is none."""
        return self._read(lambda session: session.get(TrialRow, fingerprint))

    def begins(self, prefix: str, limit: int = 5) -> list[str]:
        """Fingerprints that begin with `prefix`, at most `limit`."""
        query = select(TrialRow.fingerprint).where(TrialRow.fingerprint.startswith(prefix, autoescape=True))
        return self._read(lambda session: list(session.scalars(query.order_by(TrialRow.fingerprint).limit(limit))))

    def held(self) -> list[tuple[TrialRow, bool]]:
        """Trials that somebody works on, oldest first, without outcomes; and whether the lease has not ended yet."""
        query = (
            select(TrialRow, TrialRow.lease_until > now())
            .options(defer(TrialRow.outcome))
            .where(TrialRow.status.in_(HELD), TrialRow.owner.is_not(None))
            .order_by(TrialRow.created_at, TrialRow.position)
        )
        return self._read(lambda session: [(row, bool(good)) for row, good in session.execute(query)])

    def by_sha256(self, sha256: str) -> TrialRow | None:
        """The row of the trial that left the adapter of this sha256 (of several the first); None where none did."""
        query = (
            select(TrialRow)
            .where(
                TrialRow.adapter_sha256 == sha256,
                TrialRow.adapter_key != "",  # one that answered rows left none
                TrialRow.status.in_(("trained", "finished")),
            )
            .order_by(TrialRow.schema_version == 0, TrialRow.created_at)  # rows of 0.1.0 are not made again
            .limit(1)
        )
        return self._read(lambda session: session.scalar(query))

    def find(
        self,
        task: str | None = None,
        role: str | None = None,
        status: str | None = None,
        init: str | None = None,
        backbone: str | None = None,
        limit: int | None = None,
        *,
        kind: str | None = None,
        backbone_id: str | None = None,
        run_id: str | None = None,
        stage: str | None = None,
        since: datetime | None = None,
        noted: bool = False,
        newest_first: bool = False,
        outcomes: bool = True,
    ) -> list[TrialRow]:
        """Rows that match every given value, oldest first, detached.

        Args:
            run_id, stage: trials that a run asked for.
            since: changed at or after this aware time.
            noted: only those whose result was taken away, at any time.
            newest_first: the other order, so that `limit` keeps the newest.
            outcomes: False leaves the column `outcome` out, which is most of a row; reading it then fails.
        """
        wanted = {
            "task": task,
            "role": role,
            "status": status,
            "init": init,
            "backbone": backbone,
            "kind": kind,
            "backbone_id": backbone_id,
        }
        query = select(TrialRow).filter_by(**{key: value for key, value in wanted.items() if value is not None})
        if run_id is not None:
            query = query.where(TrialRow.fingerprint.in_(_members(run_id, stage)))
        if noted:
            query = query.where(TrialRow.note.is_not(None))
        if since is not None:
            query = query.where(TrialRow.updated_at >= since)
        if not outcomes:
            query = query.options(defer(TrialRow.outcome))
        order = (TrialRow.created_at, TrialRow.position, TrialRow.fingerprint)
        query = query.order_by(*(column.desc() for column in order) if newest_first else order).limit(limit)
        return self._read(lambda session: list(session.scalars(query)))

    def outcome(self, fingerprint: str) -> TrialOutcome:
        """What a trained or finished trial left behind.

        Raises:
            InputError: no such trial, it has no result yet, or the result cannot be read.
        """
        row = self.get(fingerprint)
        if row is None:
            raise InputError(f"ledger: trial {fingerprint[:12]} has no result: it is not in the ledger")
        return outcome_of(row)

    def outcomes(self, fingerprints: Iterable[str]) -> dict[str, TrialOutcome]:
        """Results of those trials that are finished, by fingerprint, in the order asked for.

        Raises:
            InputError: a result that cannot be read.
        """
        wanted = list(dict.fromkeys(fingerprints))
        found: dict[str, TrialOutcome] = {}
        for part in chunks(wanted):
            query = select(TrialRow).where(TrialRow.fingerprint.in_(part), TrialRow.status == "finished")
            rows = self._read(lambda session, query=query: list(session.scalars(query)))  # type: ignore[misc]
            found |= {row.fingerprint: outcome_of(row) for row in rows}
        return {key: found[key] for key in wanted if key in found}

    def counts(self, run_id: str | None = None, stage: str | None = None) -> dict[str, int]:
        """How many trials of a run (None: of all) are in each status; statuses without any are left out."""
        query = select(TrialRow.status, func.count()).group_by(TrialRow.status)
        if run_id is None:
            return self._read(lambda session: {status: int(count) for status, count in session.execute(query)})
        # The finished ones, in the end nearly all, are counted as the rest: their rows need not be looked up.
        rest = query.where(TrialRow.status.in_((*OPEN, "failed")), _member(run_id, stage))
        whole = select(func.count(_members(run_id, stage).subquery().c.fingerprint.distinct()))

        def count(session: Session) -> dict[str, int]:
            found = {status: int(count) for status, count in session.execute(rest)}
            finished = int(session.scalar(whole) or 0) - sum(found.values())
            return {**found, "finished": finished} if finished else found

        return self._read(count)

    def provenance(self, run_id: str, stage: str) -> dict[str, dict[str, Any]]:
        """How the trials of a stage of a run came about, by fingerprint: those that are done, whoever did them."""
        query = select(TrialRow.fingerprint, TrialRow.provenance).where(
            TrialRow.status == "finished", TrialRow.fingerprint.in_(_members(run_id, stage))
        )
        return self._read(lambda session: {key: told or {} for key, told in session.execute(query)})

    def left(self, run_id: str, stage: str | None = None) -> int:
        """How many trials of a run are neither finished nor failed."""
        query = select(func.count()).where(TrialRow.status.in_(OPEN), _member(run_id, stage))
        return self._read(lambda session: int(session.scalar(query) or 0))


def _member(run_id: str, stage: str | None) -> ColumnElement[bool]:
    found = exists().where(RunTrialRow.run_id == run_id, RunTrialRow.fingerprint == TrialRow.fingerprint)
    return found if stage is None else found.where(RunTrialRow.stage == stage)


def _members(run_id: str, stage: str | None) -> Select[str]:
    query = select(RunTrialRow.fingerprint).where(RunTrialRow.run_id == run_id)
    return query if stage is None else query.where(RunTrialRow.stage == stage)
