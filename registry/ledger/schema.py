"""Tables of the ledger. Times are UTC; the migrations in `registry.ledger.migrations` make the same tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, DateTime, Dialect, Float, ForeignKey, Integer, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from dept.trial import TrialSpec

STATUSES = ("pending", "running", "trained", "finished", "failed")
VERDICTS = ("first", "promoted", "kept", "not-stale")


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC times in and out; SQLite itself keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times, which would be read in some local zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("the ledger takes aware times only")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


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
    """One trial. `owner` is "host:pid:start time" of the process that works on it, null where none does."""

    __tablename__ = "trials"
    __table_args__ = (CheckConstraint(_one_of("status", STATUSES), name="status"),)

    fingerprint: Mapped[str] = mapped_column(String(64), primary_key=True)
    task: Mapped[str] = mapped_column(String(128), index=True)
    role: Mapped[str] = mapped_column(String(16))
    init: Mapped[str] = mapped_column(String(16))
    shots: Mapped[int | None] = mapped_column(Integer)
    seed: Mapped[int] = mapped_column(Integer)
    backbone: Mapped[str] = mapped_column(String(512))
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    status: Mapped[str] = mapped_column(String(16), index=True, default="pending")
    owner: Mapped[str | None] = mapped_column(String(512), index=True)
    heartbeat_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    adapter_folder: Mapped[str | None] = mapped_column(Text)
    adapter_sha256: Mapped[str | None] = mapped_column(String(64))
    outcome: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    @property
    def trial_spec(self) -> TrialSpec:
        """The spec that was added."""
        return TrialSpec.model_validate(self.spec)


class DecisionRow(Base):
    """One decision about a champion: audit trail, only ever appended to. Scores are percent."""

    __tablename__ = "decisions"
    __table_args__ = (CheckConstraint(_one_of("decision", VERDICTS), name="decision"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    model: Mapped[str] = mapped_column(String(256), index=True)
    task: Mapped[str] = mapped_column(String(128))
    champion_version: Mapped[str | None] = mapped_column(String(32))
    champion_score: Mapped[float | None] = mapped_column(Float)
    challenger_fingerprint: Mapped[str | None] = mapped_column(String(64), ForeignKey("trials.fingerprint"), index=True)
    challenger_version: Mapped[str | None] = mapped_column(String(32))
    challenger_score: Mapped[float | None] = mapped_column(Float)
    rows_hash: Mapped[str | None] = mapped_column(String(64))
    rows: Mapped[int | None] = mapped_column(Integer)
    margin: Mapped[float | None] = mapped_column(Float)
    decision: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
