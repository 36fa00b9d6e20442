"""The workers that follow the blacklist, and how far each of them is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_blacklist_workers"
down_revision = "0002_blacklist"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "blacklist_workers",
        sa.Column("worker", sa.Text(), nullable=False, comment="Unique among all processes there ever were"),
        sa.Column(
            "sequence",
            sa.BigInteger(),
            nullable=False,
            comment="blacklist_history.id of the last change it enforces; 0: none yet",
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "lease_until",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="Until when its snapshot may decide with no other report",
        ),
        sa.PrimaryKeyConstraint("worker", name="blacklist_workers_pkey"),
        sa.CheckConstraint("length(worker) BETWEEN 1 AND 200", name=op.f("blacklist_workers_worker_check")),
        sa.CheckConstraint("sequence >= 0", name=op.f("blacklist_workers_sequence_check")),
        schema="fds",
        comment="Which worker enforces the blacklist up to which change",
    )


def downgrade() -> None:
    op.drop_table("blacklist_workers", schema="fds")
