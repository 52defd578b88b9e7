"""Attempts with leases, runs, own tasks, locks, and decisions with their tests; names that begin with dept_.

Revision: 0002
Follows: 0001

Trials of 0.1.0 that are not finished become failed: what they asked is asked anew, under another fingerprint. Going
down keeps every trial; one of a newer layout cannot be read by 0.1.0, and is itself again when it goes up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

from registry.ledger.types import Number, UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UNFINISHED = "0.1.0 left it unfinished. Remedy: run its plan again"
_CHUNK = 500
_BOTH = ("fingerprint", "task", "role", "init", "shots", "seed", "backbone", "adapter_sha256", "mlflow_run_id", "error")
_TIMES = ("created_at", "updated_at", "finished_at")
_DECISION = (
    *("id", "model", "task", "champion_version", "champion_score", "challenger_fingerprint", "challenger_version"),
    *("challenger_score", "rows_hash", "rows", "margin", "decision", "reason", "at"),
)
_OLD_VERDICTS = ("first", "promoted", "kept", "not-stale")
_STACKED = ("dept", "prompt-tuning", "in-context")


def upgrade() -> None:
    _trials()
    _runs()
    _others()
    _decisions()
    there = op.get_bind()
    old, new = _table("trials"), _table("dept_trials")
    for rows in _chunks(there, old):
        there.execute(new.insert(), [_raised(row, position) for position, row in enumerate(rows)])
    old, new = _table("decisions"), _table("dept_decisions")
    for rows in _chunks(there, old):
        there.execute(new.insert(), [{**{name: row[name] for name in _DECISION}, "by": "rule"} for row in rows])
    if there.dialect.name == "postgresql":
        there.execute(
            sa.text("select setval(pg_get_serial_sequence('dept_decisions', 'id'), max(id)) from dept_decisions")
        )
    op.drop_table("decisions")
    op.drop_table("trials")


def downgrade() -> None:
    from registry.ledger.migrations.versions import r0001_trials_and_decisions as first

    first.upgrade()
    there = op.get_bind()
    new, old = _table("dept_trials"), _table("trials")
    known = set()
    for rows in _chunks(there, new):
        known |= {row["fingerprint"] for row in rows}
        there.execute(old.insert(), [_lowered(row) for row in rows])
    new, old = _table("dept_decisions"), _table("decisions")
    for rows in _chunks(there, new):
        there.execute(old.insert(), [_older(row, known) for row in rows])
    if there.dialect.name == "postgresql":
        there.execute(sa.text("select setval(pg_get_serial_sequence('decisions', 'id'), max(id)) from decisions"))
    for name in ("dept_run_trials", "dept_runs", "dept_own_tasks", "dept_locks", "dept_decisions", "dept_trials"):
        op.drop_table(name)


def _trials() -> None:
    op.create_table(
        "dept_trials",
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("task", sa.String(128), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("init", sa.String(16), nullable=False),
        sa.Column("shots", sa.BigInteger()),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("backbone", sa.Text(), nullable=False),
        sa.Column("backbone_id", sa.String(64), nullable=False),
        sa.Column("group_key", sa.String(128), nullable=False),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(512)),
        sa.Column("lease_until", UtcDateTime()),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("token", sa.String(32)),
        sa.Column("adapter_key", sa.Text()),
        sa.Column("adapter_sha256", sa.String(64)),
        sa.Column("outcome", sa.JSON()),
        sa.Column("provenance", sa.JSON()),
        sa.Column("mlflow_run_id", sa.String(64)),
        sa.Column("error", sa.Text()),
        sa.Column("note", sa.Text()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime()),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_dept_trials"),
        sa.CheckConstraint("status in ('pending', 'running', 'trained', 'finished', 'failed')", name="status"),
    )
    op.create_index("ix_dept_trials_open", "dept_trials", ["status", "created_at", "position", "fingerprint"])
    op.create_index("ix_dept_trials_counted", "dept_trials", ["fingerprint", "status"])
    for column in ("task", "owner", "token", "adapter_sha256"):
        op.create_index(f"ix_dept_trials_{column}", "dept_trials", [column])


def _runs() -> None:
    op.create_table(
        "dept_runs",
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(512)),
        sa.Column("mlflow_run_id", sa.String(64)),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime()),
        sa.PrimaryKeyConstraint("run_id", name="pk_dept_runs"),
        sa.CheckConstraint("status in ('running', 'finished', 'failed', 'killed')", name="status"),
    )
    op.create_index("ix_dept_runs_started_at", "dept_runs", ["started_at"])
    op.create_table(
        "dept_run_trials",
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.Column("stage", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "stage", "fingerprint", "label", name="pk_dept_run_trials"),
        sa.ForeignKeyConstraint(["run_id"], ["dept_runs.run_id"], name="fk_dept_run_trials_run_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["fingerprint"], ["dept_trials.fingerprint"], name="fk_dept_run_trials_fingerprint", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_dept_run_trials_fingerprint", "dept_run_trials", ["fingerprint"])


def _others() -> None:
    op.create_table(
        "dept_own_tasks",
        sa.Column("id", Number, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("block", sa.JSON(), nullable=False),
        sa.Column("block_sha256", sa.String(64), nullable=False),
        sa.Column("rows_sha256", sa.String(64), nullable=False),
        sa.Column("registered_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_dept_own_tasks"),
        sa.UniqueConstraint("name", "block_sha256", "rows_sha256", name="uq_dept_own_tasks_name"),
    )
    op.create_index("ix_dept_own_tasks_name", "dept_own_tasks", ["name"])
    op.create_table(
        "dept_locks",
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(512), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_dept_locks"),
    )


def _decisions() -> None:
    op.create_table(
        "dept_decisions",
        sa.Column("id", Number, nullable=False),
        sa.Column("uid", sa.String(32)),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("task", sa.String(128), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("champion_version", sa.String(32)),
        sa.Column("champion_fingerprint", sa.String(64)),
        sa.Column("champion_score", sa.Float()),
        sa.Column("challenger_version", sa.String(32)),
        sa.Column("challenger_fingerprint", sa.String(64)),
        sa.Column("challenger_score", sa.Float()),
        sa.Column("backbone_id", sa.String(64)),
        sa.Column("dtype", sa.String(16)),
        sa.Column("test", sa.String(16)),
        sa.Column("metric", sa.String(32)),
        sa.Column("rows_hash", sa.String(64)),
        sa.Column("rows", sa.BigInteger()),
        *(sa.Column(name, sa.Float()) for name in ("margin", "difference", "low", "high", "p", "alpha", "confidence")),
        *(sa.Column(name, sa.BigInteger()) for name in ("wins", "losses", "needed", "looks")),
        sa.Column("run_id", sa.String(64)),
        sa.Column("by", sa.String(128)),
        sa.PrimaryKeyConstraint("id", name="pk_dept_decisions"),
        sa.UniqueConstraint("uid", name="uq_dept_decisions_uid"),
        sa.CheckConstraint(
            "decision in ('first', 'promoted', 'kept', 'not-stale', 'rolled-back', 'by-hand')", name="decision"
        ),
    )
    for column in ("model", "task", "challenger_fingerprint"):
        op.create_index(f"ix_dept_decisions_{column}", "dept_decisions", [column])


def _table(name: str) -> sa.Table:
    found = sa.Table(name, sa.MetaData(), autoload_with=op.get_bind())
    for column in found.columns:
        if column.name in ("spec", "outcome", "provenance"):
            column.type = sa.JSON(none_as_null=True)
        elif isinstance(column.type, sa.DateTime):
            column.type = UtcDateTime()
    return found


def _chunks(there: sa.Connection, table: sa.Table) -> Iterator[list[dict[str, Any]]]:
    key = next(iter(table.primary_key.columns))
    last = None
    while True:
        query = sa.select(table).order_by(key).limit(_CHUNK)
        rows = [dict(row) for row in there.execute(query if last is None else query.where(key > last)).mappings()]
        if not rows:
            return
        yield rows
        last = rows[-1][key.name]


def _raised(row: dict[str, Any], position: int) -> dict[str, Any]:
    spec = row["spec"] if isinstance(row["spec"], dict) else {"unreadable": json.dumps(row["spec"])}
    version = spec.get("schema_version", 0)
    version = version if isinstance(version, int) else 0
    open_ = row["status"] in ("pending", "running", "trained")
    left = open_ and not version
    status = "pending" if row["status"] == "running" else row["status"]  # of one that was taken down nobody works on it
    side = "stack" if spec.get("method", "dept") in _STACKED else "single"
    return {
        **{name: row[name] for name in (*_BOTH, *_TIMES)},
        "kind": str(spec.get("kind", "train"))[:16],
        "backbone_id": str(spec.get("backbone_id", ""))[:64],
        "group_key": f"{str(spec.get('backbone_id', ''))[:64]}:{spec.get('dtype') or '-'}:{side}",
        "schema_version": version,
        "spec": spec,
        "position": position,
        "status": "failed" if left else status,
        "attempt": row["attempts"],
        "adapter_key": row["adapter_folder"],
        "outcome": row["outcome"],
        "error": _UNFINISHED if left else row["error"],
    }


def _lowered(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in (*_BOTH, *_TIMES, "spec", "outcome", "status")},
        "attempts": row["attempt"],
        "adapter_folder": row["adapter_key"],
        "owner": None,
        "heartbeat_at": None,
    }


def _older(row: dict[str, Any], known: set[str]) -> dict[str, Any]:
    kept = {name: row[name] for name in _DECISION}
    if kept["decision"] not in _OLD_VERDICTS:
        kept |= {"decision": "promoted", "reason": f"{kept['decision']}: {kept['reason']}"}
    if kept["challenger_fingerprint"] not in known:
        kept["challenger_fingerprint"] = None
    return kept
