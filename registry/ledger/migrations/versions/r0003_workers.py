"""Who works, or waits for work: a row for each worker that is there.

Revision: 0003
Follows: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from registry.ledger.types import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dept_workers",
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("owner", sa.String(512)),
        sa.Column("run_id", sa.String(32)),
        sa.Column("until", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_dept_workers"),
    )


def downgrade() -> None:
    op.drop_table("dept_workers")
