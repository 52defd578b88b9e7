"""Tables of the ledger. Times are UTC by the database's clock; the migrations beside this make the same tables.

Their names begin with dept_, so that MLflow, which has a table `runs`, may use the same database.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dept.trial import TrialSpec
from infra.errors import InputError
from infra.explain import explained
from registry.ledger.types import Number, UtcDateTime

HELD = ("running", "trained")  # by an owner
STATUSES = ("pending", "running", "trained", "finished", "failed")
VERDICTS = ("first", "promoted", "kept", "not-stale", "rolled-back", "by-hand")
RUN_STATUSES = ("running", "finished", "failed", "killed")


class Base(DeclarativeBase):
    """Names every constraint, so that a migration can find it on any database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} in ({', '.join(repr(value) for value in values)})"


class TrialRow(Base):
    """One trial, by its fingerprint.

    Attributes:
        group_key: see `registry.ledger.rows.group_of`.
        schema_version: layout of `spec`; rows of a newer one, and of 0.1.0 (0), are never claimed.
        position: place among the trials that were added with it.
        owner: `infra.identity.process_id` of who works on it, null where nobody does. lease_until: when its hold ends.
        attempt: raised by every claim, and by whatever takes a result away; each write names it.
        token: of the call that claimed it, so that a claim whose answer was lost is found again.
        provenance: device, versions, commit, engine, ranks, host: what had a part, but is no part of the question.
        error: why it failed. note: why an earlier result was taken away.
    """

    __tablename__ = "dept_trials"
    __table_args__ = (
        CheckConstraint(_one_of("status", STATUSES), name="status"),
        Index("ix_dept_trials_open", "status", "created_at", "position", "fingerprint"),  # what a claim walks along
        Index("ix_dept_trials_counted", "fingerprint", "status"),  # what a count needs, without the rows
        Index("ix_dept_trials_adapter_sha256", "adapter_sha256"),
    )

    fingerprint: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    task: Mapped[str] = mapped_column(String(128), index=True)
    role: Mapped[str] = mapped_column(String(16))
    init: Mapped[str] = mapped_column(String(16))
    shots: Mapped[int | None] = mapped_column(BigInteger)
    seed: Mapped[int] = mapped_column(BigInteger)
    backbone: Mapped[str] = mapped_column(Text)
    backbone_id: Mapped[str] = mapped_column(String(64))
    group_key: Mapped[str] = mapped_column(String(128))
    schema_version: Mapped[int] = mapped_column(Integer)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    position: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(String(16))
    owner: Mapped[str | None] = mapped_column(String(512), index=True)
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    attempt: Mapped[int] = mapped_column(BigInteger)
    token: Mapped[str | None] = mapped_column(String(32), index=True)
    adapter_key: Mapped[str | None] = mapped_column(Text)
    adapter_sha256: Mapped[str | None] = mapped_column(String(64))
    outcome: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    provenance: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None] = mapped_column(Text)
    note: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    @property
    def trial_spec(self) -> TrialSpec:
        """The spec that was added.

        Raises:
            InputError: this version cannot read it; see `unreadable`.
        """
        try:
            return TrialSpec.model_validate(self.spec)
        except ValidationError as error:
            raise InputError(
                f"ledger: the spec of trial {self.fingerprint[:12]} (layout {self.schema_version}) cannot be read: "
                f"{explained(error, TrialSpec, self.spec)}. Remedy: use the dept-transfer that wrote it, or "
                "`dept trials forget`"
            ) from error

    @property
    def unreadable(self) -> str | None:
        """Why the spec cannot be read, in one line; None where it can."""
        try:
            _ = self.trial_spec
        except InputError as error:
            return str(error)
        return None


class RunRow(Base):
    """One run of a plan or of retraining: `plan` is what was asked for, `owner` the controller's process."""

    __tablename__ = "dept_runs"
    __table_args__ = (CheckConstraint(_one_of("status", RUN_STATUSES), name="status"),)

    run_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(256))
    kind: Mapped[str] = mapped_column(String(16))
    plan: Mapped[dict[str, Any]] = mapped_column(JSON)
    status: Mapped[str] = mapped_column(String(16))
    owner: Mapped[str | None] = mapped_column(String(512))
    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class RunTrialRow(Base):
    """A trial that a run asked for in a stage, under the label it has there: two labels may be one trial."""

    __tablename__ = "dept_run_trials"

    run_id: Mapped[str] = mapped_column(
        String(32), ForeignKey("dept_runs.run_id", ondelete="CASCADE"), primary_key=True
    )
    stage: Mapped[str] = mapped_column(String(64), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(
        String(64), ForeignKey("dept_trials.fingerprint", ondelete="CASCADE"), primary_key=True, index=True
    )
    label: Mapped[str] = mapped_column(Text, primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)


class OwnTaskRow(Base):
    """A task that is not in the catalogue. `block` is what `tasks.spec.Task` reads.

    `rows_sha256` names its rows in the store (`rows/<sha256>`); "" where they are read from their source each time.
    """

    __tablename__ = "dept_own_tasks"
    __table_args__ = (UniqueConstraint("name", "block_sha256", "rows_sha256"),)

    id: Mapped[int] = mapped_column(Number, primary_key=True)
    name: Mapped[str] = mapped_column(String(128), index=True)
    block: Mapped[dict[str, Any]] = mapped_column(JSON)
    block_sha256: Mapped[str] = mapped_column(String(64))
    rows_sha256: Mapped[str] = mapped_column(String(64))
    registered_at: Mapped[datetime] = mapped_column(UtcDateTime)


class DecisionRow(Base):
    """One decision about a champion: audit trail, only ever appended to. Scores and differences are percent.

    Attributes:
        difference, low, high: of the challenger over the champion, with its confidence interval.
        p, alpha, confidence: of the test that was made. wins, losses: rows that only one of the two had right.
        needed: discordant rows that the test needs. looks: how often this pair of models was compared before.
        by: who decided, `rule` or a person.
    """

    __tablename__ = "dept_decisions"
    __table_args__ = (CheckConstraint(_one_of("decision", VERDICTS), name="decision"),)

    id: Mapped[int] = mapped_column(Number, primary_key=True)
    uid: Mapped[str | None] = mapped_column(String(32), unique=True)
    model: Mapped[str] = mapped_column(String(256), index=True)
    task: Mapped[str] = mapped_column(String(128), index=True)
    decision: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    champion_version: Mapped[str | None] = mapped_column(String(32))
    champion_fingerprint: Mapped[str | None] = mapped_column(String(64))
    champion_score: Mapped[float | None] = mapped_column(Float)
    challenger_version: Mapped[str | None] = mapped_column(String(32))
    challenger_fingerprint: Mapped[str | None] = mapped_column(String(64), index=True)
    challenger_score: Mapped[float | None] = mapped_column(Float)
    backbone_id: Mapped[str | None] = mapped_column(String(64))
    dtype: Mapped[str | None] = mapped_column(String(16))
    test: Mapped[str | None] = mapped_column(String(16))
    metric: Mapped[str | None] = mapped_column(String(32))
    rows_hash: Mapped[str | None] = mapped_column(String(64))
    rows: Mapped[int | None] = mapped_column(BigInteger)
    margin: Mapped[float | None] = mapped_column(Float)
    difference: Mapped[float | None] = mapped_column(Float)
    low: Mapped[float | None] = mapped_column(Float)
    high: Mapped[float | None] = mapped_column(Float)
    p: Mapped[float | None] = mapped_column(Float)
    alpha: Mapped[float | None] = mapped_column(Float)
    confidence: Mapped[float | None] = mapped_column(Float)
    wins: Mapped[int | None] = mapped_column(BigInteger)
    losses: Mapped[int | None] = mapped_column(BigInteger)
    needed: Mapped[int | None] = mapped_column(BigInteger)
    looks: Mapped[int | None] = mapped_column(BigInteger)
    run_id: Mapped[str | None] = mapped_column(String(64))
    by: Mapped[str | None] = mapped_column(String(128))


class WorkerRow(Base):
    """A worker that is there, or about to come; `owner` is its process, once that has begun. It counts `until` then."""

    __tablename__ = "dept_workers"

    name: Mapped[str] = mapped_column(String(512), primary_key=True)
    owner: Mapped[str | None] = mapped_column(String(512))
    run_id: Mapped[str | None] = mapped_column(String(32))
    until: Mapped[datetime] = mapped_column(UtcDateTime)


class LockRow(Base):
    """Who holds a named lock, and until when by the database's clock."""

    __tablename__ = "dept_locks"

    name: Mapped[str] = mapped_column(String(512), primary_key=True)
    token: Mapped[str] = mapped_column(String(32))
    owner: Mapped[str] = mapped_column(String(512))
    until: Mapped[datetime] = mapped_column(UtcDateTime)
