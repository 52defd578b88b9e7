"""Who works on what: claim, renew, release. A hold is a lease by the database's clock, and every hold has a number."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeVar

from sqlalchemy import ColumnElement, Select, and_, case, exists, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from dept.trial import SCHEMA, TrialOutcome, TrialSpec
from infra.errors import InputError
from infra.identity import is_gone
from infra.settings import settings
from registry.ledger.clock import now
from registry.ledger.connection import Connected
from registry.ledger.rows import outcome_of
from registry.ledger.schema import HELD, RunTrialRow, TrialRow

OLDEST = 1  # layout of a spec; 0.1.0's was 0
CHUNK = 500  # trials named in one statement
Item = TypeVar("Item")


@dataclass(frozen=True)
class Claim:
    """The right to work on a trial until its lease ends; each write names `fingerprint` and `attempt`.

    Attributes:
        status: running: to be done. trained: its adapter is durable, `outcome` is known; it is to be tested and closed.
    """

    fingerprint: str
    attempt: int
    status: Literal["running", "trained"]
    spec: TrialSpec
    outcome: TrialOutcome | None = None
    token: str = ""

    @property
    def key(self) -> str:
        """Where this attempt keeps its files in the store; no other claim, of this or another ledger, has it."""
        return f"adapters/{self.fingerprint}/{self.attempt}-{self.token[:8]}"


class Claims(Connected):
    """The part of the ledger that gives trials out."""

    def claim(
        self,
        owner: str,
        limit: int = 64,
        *,
        run_id: str | None = None,
        stage: str | None = None,
        lease_seconds: float | None = None,
        prefer: str | None = None,
        without: Collection[str] = (),
    ) -> list[Claim]:
        """Take up to `limit` trials that can share a backbone; of several callers no two get the same. One statement.

        Given out are pending trials, and those held by nobody any more: their lease has ended by the database's clock,
        or their owner is a process of this machine that is gone. A trained trial stays trained. A failed or finished
        one is never given out. A trial whose spec cannot be read becomes failed, with the reason.

        Args:
            owner: `infra.identity.process_id()` of the caller.
            run_id: only trials of this run; stage: only those of this stage of it.
            lease_seconds: how long it is held without `renew`; None: $DEPT_LEASE_SECONDS.
            prefer: `group_of` a spec whose backbone is loaded: trials of that group first.
            without: fingerprints to pass over, as of trials whose start is being made.

        Returns:
            Claims in the order in which the trials were added; none where there is nothing to do now.
        """
        seconds = lease_seconds or settings().lease_seconds
        while True:
            rows = self._claim_rows(owner, limit, within(run_id, stage, without), seconds, prefer)
            if not rows and prefer is not None:
                rows, prefer = self._claim_rows(owner, limit, within(run_id, stage, without), seconds, None), None
            claims = [claim for row in rows if (claim := self._as_claim(row)) is not None]
            if claims or not rows:
                return claims

    def _claim_rows(
        self, owner: str, limit: int, within: ColumnElement[bool], lease_seconds: float, group: str | None
    ) -> list[TrialRow]:
        token = secrets.token_hex(16)
        left = self._lapsed()

        def take(session: Session) -> list[TrialRow]:
            taken = list(session.scalars(select(TrialRow).where(TrialRow.token == token)))
            for free in (left, TrialRow.status == "pending"):  # apart, so that each walks along an index
                if not taken:  # else the answer of a first try was lost
                    query = _taking(and_(free, within), owner, limit, lease_seconds, group, token)
                    taken = list(session.scalars(query))
            return sorted(taken, key=lambda row: (row.created_at, row.position, row.fingerprint))

        return self._write(take)

    def free(self, run_id: str) -> int:
        """How many trials of a run a worker could claim now."""
        query = select(func.count()).where(or_(TrialRow.status == "pending", self._lapsed()), within(run_id, None))
        return self._read(lambda session: int(session.scalar(query) or 0))

    def _lapsed(self) -> ColumnElement[bool]:
        """Rows that nobody holds any more."""
        gone = TrialRow.owner.in_(self._gone_owners())
        return and_(TrialRow.status.in_(HELD), or_(TrialRow.owner.is_(None), TrialRow.lease_until <= now(), gone))

    def _gone_owners(self) -> list[str]:
        query = select(TrialRow.owner).where(TrialRow.owner.is_not(None)).distinct()
        return [owner for owner in self._read(lambda session: list(session.scalars(query))) if owner and is_gone(owner)]

    def _as_claim(self, row: TrialRow) -> Claim | None:
        status: Literal["running", "trained"] = "trained" if row.status == "trained" else "running"
        try:
            spec = row.trial_spec
            if spec.fingerprint != row.fingerprint:
                raise InputError(
                    f"ledger: trial {row.fingerprint[:12]} is of a version that asked another question by these words. "
                    "Remedy: run its plan again"
                )
            outcome = outcome_of(row, spec) if status == "trained" else None
            return Claim(row.fingerprint, row.attempt, status, spec, outcome, row.token or "")
        except InputError as error:
            reason = str(error)
        self._write(lambda session: _fail(session, row, reason))
        return None

    def renew(self, claims: Iterable[Claim], lease_seconds: float | None = None) -> set[str]:
        """Hold claims for `lease_seconds` from now (None: $DEPT_LEASE_SECONDS); to be called as work goes on, not else.

        Returns:
            Fingerprints that are still held by these attempts.
        """
        held: set[str] = set()
        seconds = lease_seconds or settings().lease_seconds
        for part in chunks(claims):

            def renew(session: Session, part: list[Claim] = part) -> set[str]:
                query = update(TrialRow).where(is_held(part)).values(lease_until=now(seconds))
                return set(session.scalars(query.returning(TrialRow.fingerprint)))

            held |= self._write(renew)
        return held

    def release(self, claims: Iterable[Claim]) -> None:
        """Let go: running trials are pending again, trained ones wait to be finished. What others hold stays theirs."""
        for part in chunks(claims):

            def release(session: Session, part: list[Claim] = part) -> None:
                status = case((TrialRow.status == "running", "pending"), else_=TrialRow.status)
                session.execute(
                    update(TrialRow)
                    .where(is_held(part))
                    .values(status=status, owner=None, lease_until=None, token=None, updated_at=now())
                    .execution_options(synchronize_session=False)
                )

            self._write(release)


def within(run_id: str | None, stage: str | None, without: Collection[str] = ()) -> ColumnElement[bool]:
    """Rows of a layout that this code reads, and of a run and a stage where one is named; without those named."""
    layout = is_readable()
    for part in chunks(without):  # one statement all the same: SQLite bounds the length of a list, not of a query
        layout = and_(layout, TrialRow.fingerprint.not_in(part))
    if run_id is None:
        return layout
    member = exists().where(RunTrialRow.run_id == run_id, RunTrialRow.fingerprint == TrialRow.fingerprint)
    return and_(layout, member if stage is None else member.where(RunTrialRow.stage == stage))


def is_readable() -> ColumnElement[bool]:
    """Rows whose layout this code can work on. Those of 0.1.0 have fingerprints of another kind."""
    return TrialRow.schema_version.between(OLDEST, SCHEMA)


def _taking(
    free: ColumnElement[bool], owner: str, limit: int, lease_seconds: float, group: str | None, token: str
) -> Any:
    """UPDATE ... RETURNING of the first free trials of a group; rows that another transaction holds are passed over."""
    order = (TrialRow.created_at, TrialRow.position, TrialRow.fingerprint)
    wanted: Select[Any] = select(TrialRow.fingerprint).where(free)
    if group is not None:
        wanted = wanted.where(TrialRow.group_key == group)
    else:
        first = select(TrialRow.group_key).where(free).order_by(*order).limit(1).with_for_update(skip_locked=True)
        wanted = wanted.where(TrialRow.group_key == first.cte("first").select().scalar_subquery())
    wanted = wanted.order_by(*order).limit(limit).with_for_update(skip_locked=True, of=TrialRow)
    return (
        update(TrialRow)
        .where(TrialRow.fingerprint.in_(wanted.cte("wanted").select()))
        .values(
            status=case((TrialRow.status == "trained", "trained"), else_="running"),
            owner=owner,
            token=token,
            lease_until=now(lease_seconds),
            attempt=TrialRow.attempt + 1,
            error=None,
            updated_at=now(),
        )
        .returning(TrialRow)
        .execution_options(synchronize_session=False)
    )


def is_of(claims: Sequence[Claim]) -> ColumnElement[bool]:
    """The rows whose attempt is still the one of these claims."""
    pairs = [(claim.fingerprint, claim.attempt) for claim in claims]
    return and_(
        TrialRow.fingerprint.in_([fingerprint for fingerprint, _ in pairs]),  # SQLite takes no index for pairs
        tuple_(TrialRow.fingerprint, TrialRow.attempt).in_(pairs),
    )


def is_held(claims: Sequence[Claim]) -> ColumnElement[bool]:
    """The rows that these very attempts still hold."""
    return and_(is_of(claims), TrialRow.status.in_(HELD), TrialRow.owner.is_not(None))


def chunks(items: Iterable[Item], size: int = CHUNK) -> Iterator[list[Item]]:
    """Lists of at most `size` items."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def _fail(session: Session, row: TrialRow, reason: str) -> None:
    session.execute(
        update(TrialRow)
        .where(TrialRow.fingerprint == row.fingerprint, TrialRow.attempt == row.attempt)
        .values(status="failed", error=reason, owner=None, lease_until=None, token=None, updated_at=now())
    )
