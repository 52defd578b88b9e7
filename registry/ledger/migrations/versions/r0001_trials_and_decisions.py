"""Trials and decisions.

Revision: 0001
Follows: none
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "trials",
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("task", sa.String(128), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("init", sa.String(16), nullable=False),
        sa.Column("shots", sa.Integer()),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("backbone", sa.String(512), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(512)),
        sa.Column("heartbeat_at", time),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("adapter_folder", sa.Text()),
        sa.Column("adapter_sha256", sa.String(64)),
        sa.Column("outcome", sa.JSON()),
        sa.Column("mlflow_run_id", sa.String(64)),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", time, nullable=False),
        sa.Column("updated_at", time, nullable=False),
        sa.Column("finished_at", time),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_trials"),
        sa.CheckConstraint("status in ('pending', 'running', 'trained', 'finished', 'failed')", name="status"),
    )
    for column in ("task", "status", "owner"):
        op.create_index(f"ix_trials_{column}", "trials", [column])
    op.create_table(
        "decisions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("task", sa.String(128), nullable=False),
        sa.Column("champion_version", sa.String(32)),
        sa.Column("champion_score", sa.Float()),
        sa.Column("challenger_fingerprint", sa.String(64)),
        sa.Column("challenger_version", sa.String(32)),
        sa.Column("challenger_score", sa.Float()),
        sa.Column("rows_hash", sa.String(64)),
        sa.Column("rows", sa.Integer()),
        sa.Column("margin", sa.Float()),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_decisions"),
        sa.ForeignKeyConstraint(
            ["challenger_fingerprint"], ["trials.fingerprint"], name="fk_decisions_challenger_fingerprint"
        ),
        sa.CheckConstraint("decision in ('first', 'promoted', 'kept', 'not-stale')", name="decision"),
    )
    op.create_index("ix_decisions_model", "decisions", ["model"])
    op.create_index("ix_decisions_challenger_fingerprint", "decisions", ["challenger_fingerprint"])


def downgrade() -> None:
    op.drop_table("decisions")
    op.drop_table("trials")
