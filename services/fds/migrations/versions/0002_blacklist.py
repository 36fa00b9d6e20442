"""The blacklist's record: entries, their history, and how far the copy has it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002_blacklist"
down_revision = "0001_transactions"
branch_labels = None
depends_on = None

APPEND_ONLY = """
CREATE FUNCTION fds.blacklist_history_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the history of the blacklist is append-only' USING ERRCODE = 'restrict_violation';
END
$$
"""
TRIGGER = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON fds.blacklist_history
FOR EACH STATEMENT EXECUTE FUNCTION fds.blacklist_history_is_append_only()
"""


def upgrade() -> None:
    op.create_table(
        "blacklist_entries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True, comment="NULL: permanent"),
        sa.PrimaryKeyConstraint("id", name="blacklist_entries_pkey"),
        sa.UniqueConstraint("kind", "value", name="blacklist_entries_kind_value_key"),
        sa.CheckConstraint(
            "kind IN ('ip', 'card_bin', 'email_domain', 'email', 'user', 'device')",
            name=op.f("blacklist_entries_kind_check"),
        ),
        sa.CheckConstraint("length(value) BETWEEN 1 AND 320", name=op.f("blacklist_entries_value_check")),
        sa.CheckConstraint("length(reason) BETWEEN 1 AND 500", name=op.f("blacklist_entries_reason_check")),
        schema="fds",
        comment="What is listed now; Redis Cluster holds a fast copy of it",
    )
    op.create_index(
        "blacklist_entries_expires_idx",
        "blacklist_entries",
        ["expires_at"],
        schema="fds",
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
    op.create_table(
        "blacklist_history",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("before", postgresql.JSONB(), nullable=True),
        sa.Column("after", postgresql.JSONB(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="blacklist_history_pkey"),
        sa.CheckConstraint(
            "action IN ('added', 'extended', 'replaced', 'ttl', 'removed', 'expired')",
            name=op.f("blacklist_history_action_check"),
        ),
        schema="fds",
        comment="Every change of the blacklist; append-only",
    )
    op.create_index(
        "blacklist_history_entry_idx", "blacklist_history", ["kind", "value", sa.text("id DESC")], schema="fds"
    )
    op.execute(APPEND_ONLY)
    op.execute(TRIGGER)
    op.create_table(
        "blacklist_applied",
        sa.Column(
            "single", sa.Boolean(), server_default=sa.text("true"), nullable=False, comment="Keeps it to one row"
        ),
        sa.Column(
            "history_id",
            sa.BigInteger(),
            nullable=False,
            comment="blacklist_history.id of the last change in the copy",
        ),
        sa.PrimaryKeyConstraint("single", name="blacklist_applied_pkey"),
        sa.CheckConstraint("single", name=op.f("blacklist_applied_single_check")),
        schema="fds",
        comment="How far the copy in Redis Cluster has the changes",
    )


def downgrade() -> None:
    op.drop_table("blacklist_applied", schema="fds")
    op.drop_table("blacklist_history", schema="fds")
    op.execute("DROP FUNCTION fds.blacklist_history_is_append_only()")
    op.drop_table("blacklist_entries", schema="fds")
