"""The ledger: what is done, what is being done and by whom. One row per trial, keyed by its fingerprint."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Self

from sqlalchemy import ColumnElement, Engine, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from dept.trial import TrialOutcome, TrialSpec
from infra.errors import InputError
from infra.identity import STALE_SECONDS, is_dead, owner_id
from infra.settings import home
from registry.ledger import outcomes
from registry.ledger.database import cause, open_engine
from registry.ledger.schema import DecisionRow, TrialRow

__all__ = ["DecisionRow", "Ledger", "TrialRow", "owner_id"]


class Ledger:
    """Trials and decisions in one database. Safe from many threads and processes; open one per process.

    A trial goes pending -> running -> trained (its adapter is durable) -> finished (its MLflow run is closed), or
    failed. Each change is one compare-and-set UPDATE, so a kill at any point leaves a state from which `claim` goes on.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, url: str | None = None) -> Self:
        """Open a ledger and bring its tables up to date.

        Args:
            url: SQLAlchemy URL; default the SQLite file home()/ledger.db.

        Raises:
            InputError: see `registry.ledger.database.open_engine`.
        """
        return cls(open_engine(url or f"sqlite:///{home() / 'ledger.db'}"))

    def close(self) -> None:
        """Give connections back."""
        self.engine.dispose()

    def add(self, specs: Iterable[TrialSpec]) -> None:
        """Make a pending row of each spec that has none; rows that exist stay as they are."""
        now = datetime.now(UTC)
        rows = [
            {
                "fingerprint": spec.fingerprint,
                "task": spec.task,
                "role": spec.role,
                "init": spec.init,
                "shots": spec.shots,
                "seed": spec.seed,
                "backbone": spec.backbone,
                "status": "pending",
                "attempts": 0,
                "spec": spec.model_dump(mode="json"),
                "created_at": now,
                "updated_at": now,
            }
            for spec in specs
        ]
        insert = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert
        with self._write() as session:
            if rows:
                session.execute(insert(TrialRow).on_conflict_do_nothing(index_elements=["fingerprint"]), rows)

    def claim(
        self, fingerprint: str, owner: str, *, retry_failed: bool = False, stale_seconds: float = STALE_SECONDS
    ) -> bool:
        """Take a trial to work on, if nobody else has it; of several callers exactly one gets True.

        A pending trial becomes running. A trial whose owner is dead keeps its status, running or trained: of a trained
        one only the MLflow run and `finish` are missing. A finished trial is never given out.

        Args:
            retry_failed: also take a failed trial.
            stale_seconds: silence after which an owner is taken for dead; a dead one on this host is seen at once.

        Raises:
            InputError: the trial was never added.
        """
        seen = self.get(fingerprint)
        if seen is None:
            raise InputError(f"ledger: no trial {fingerprint[:12]}. Remedy: add its spec first")
        if not (
            seen.status == "pending"
            or (seen.status == "failed" and retry_failed)
            or (seen.status in ("running", "trained") and is_dead(seen.owner, seen.heartbeat_at, stale_seconds))
        ):
            return False
        # `attempts` counts claims, so an unchanged row is one that nobody claimed in between.
        return self._set(
            fingerprint,
            (TrialRow.status == seen.status)
            & (TrialRow.attempts == seen.attempts)
            & TrialRow.owner.is_not_distinct_from(seen.owner)
            & TrialRow.heartbeat_at.is_not_distinct_from(seen.heartbeat_at),
            status="trained" if seen.status == "trained" else "running",
            owner=owner,
            heartbeat_at=datetime.now(UTC),
            attempts=seen.attempts + 1,
            error=None,
        )

    def heartbeat(self, owner: str) -> int:
        """Say that `owner` is alive; returns how many trials it holds."""
        with self._write() as session:
            return _count(
                session.execute(
                    update(TrialRow)
                    .where(TrialRow.owner == owner, TrialRow.status.in_(("running", "trained")))
                    .values(heartbeat_at=datetime.now(UTC))
                )
            )

    @contextlib.contextmanager
    def beating(self, owner: str, seconds: float = STALE_SECONDS / 6) -> Iterator[None]:
        """Send heartbeats from a thread for as long as the block runs, and release what is left at its end."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(seconds):
                with contextlib.suppress(InputError):  # a busy database: the next beat follows soon
                    self.heartbeat(owner)

        thread = threading.Thread(target=beat, name="ledger-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.release(owner)

    def trained(self, fingerprint: str, outcome: TrialOutcome, owner: str | None = None) -> bool:
        """Record that the adapter is durable, with all numbers of the outcome.

        Args:
            owner: if given, only while this owner still holds the trial.

        Returns:
            False where the trial is finished or held by another.

        Raises:
            InputError: the outcome is of another trial.
        """
        if outcome.spec.fingerprint != fingerprint:
            raise InputError(f"ledger: the outcome of {outcome.spec.label} is not of trial {fingerprint[:12]}")
        return self._set(fingerprint, _open(owner), status="trained", error=None, **_columns(outcome))

    def finish(self, fingerprint: str, mlflow_run_id: str, outcome: TrialOutcome, owner: str | None = None) -> bool:
        """Record that the MLflow run is closed: the trial is done for good. Arguments and result as in `trained`."""
        if outcome.spec.fingerprint != fingerprint:
            raise InputError(f"ledger: the outcome of {outcome.spec.label} is not of trial {fingerprint[:12]}")
        return self._set(
            fingerprint,
            _open(owner),
            status="finished",
            mlflow_run_id=mlflow_run_id,
            owner=None,
            heartbeat_at=None,
            error=None,
            finished_at=datetime.now(UTC),
            **_columns(outcome),
        )

    def fail(self, fingerprint: str, reason: str, owner: str | None = None) -> bool:
        """Record why a trial has no result; a finished trial stays finished (False)."""
        return self._set(fingerprint, _open(owner), status="failed", error=reason, owner=None, heartbeat_at=None)

    def release(self, owner: str) -> None:
        """Let go of all that `owner` holds: running trials are pending again, trained ones wait to be finished."""
        with self._write() as session:
            for status, following in (("running", "pending"), ("trained", "trained")):
                session.execute(
                    update(TrialRow)
                    .where(TrialRow.owner == owner, TrialRow.status == status)
                    .values(status=following, owner=None, heartbeat_at=None, updated_at=datetime.now(UTC))
                )

    def get(self, fingerprint: str) -> TrialRow | None:
        """The row of a trial, detached; None where there is none."""
        with self._read() as session:
            return session.get(TrialRow, fingerprint)

    def find(
        self,
        task: str | None = None,
        role: str | None = None,
        status: str | None = None,
        init: str | None = None,
        backbone: str | None = None,
        limit: int | None = None,
    ) -> list[TrialRow]:
        """Rows that match every given value, oldest first, detached."""
        wanted = {"task": task, "role": role, "status": status, "init": init, "backbone": backbone}
        query = select(TrialRow).filter_by(**{key: value for key, value in wanted.items() if value is not None})
        with self._read() as session:
            return list(session.scalars(query.order_by(TrialRow.created_at, TrialRow.fingerprint).limit(limit)))

    def outcome(self, fingerprint: str) -> TrialOutcome:
        """What a trained or finished trial left behind.

        Raises:
            InputError: no such trial, or it has no result yet.
        """
        row = self.get(fingerprint)
        if row is None or row.outcome is None or row.adapter_folder is None or row.adapter_sha256 is None:
            state = "it is not in the ledger" if row is None else f"it is {row.status}"
            raise InputError(f"ledger: trial {fingerprint[:12]} has no result: {state}")
        return outcomes.from_json(row.outcome, row.trial_spec, row.adapter_folder, row.adapter_sha256)

    def record_decision(self, model: str, task: str, decision: str, reason: str, **numbers: Any) -> DecisionRow:
        """Append to the audit trail.

        Args:
            decision: first, promoted, kept or not-stale.
            numbers: the other columns of `DecisionRow`.

        Raises:
            InputError: a verdict or a challenger that the ledger does not know.
        """
        row = DecisionRow(model=model, task=task, decision=decision, reason=reason, at=datetime.now(UTC), **numbers)
        try:
            with self._write() as session:
                session.add(row)
        except IntegrityError as error:
            raise InputError(
                f"ledger: decision {decision!r} about {model} was not recorded ({cause(error)}): its "
                "verdict is unknown, or its challenger is not a trial of this ledger"
            ) from error
        return row

    def decisions(self, model: str | None = None) -> list[DecisionRow]:
        """The audit trail, oldest first."""
        query = select(DecisionRow).order_by(DecisionRow.id)
        with self._read() as session:
            return list(session.scalars(query if model is None else query.where(DecisionRow.model == model)))

    def _set(self, fingerprint: str, condition: ColumnElement[bool], **values: Any) -> bool:
        with self._write() as session:
            return (
                _count(
                    session.execute(
                        update(TrialRow)
                        .where(TrialRow.fingerprint == fingerprint, condition)
                        .values(updated_at=datetime.now(UTC), **values)
                    )
                )
                == 1
            )

    @contextlib.contextmanager
    def _read(self) -> Iterator[Session]:
        with self._guard(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextlib.contextmanager
    def _write(self) -> Iterator[Session]:
        with self._guard(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            raise InputError(
                f"ledger {self.engine.url}: {cause(error)}. Remedy: free disk space, or check that the "
                "database can be reached and written; the next run goes on from here"
            ) from error


def _open(owner: str | None) -> ColumnElement[bool]:
    unfinished = TrialRow.status != "finished"
    return unfinished if owner is None else unfinished & (TrialRow.owner == owner)


def _columns(outcome: TrialOutcome) -> dict[str, Any]:
    return {
        "outcome": outcomes.to_json(outcome),
        "adapter_folder": outcomes.save_path(outcome.adapter_folder),
        "adapter_sha256": outcome.adapter_sha256,
    }


def _count(result: Any) -> int:
    return int(result.rowcount)
