"""Transactions with their label."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001_transactions"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "transactions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "order_id",
            sa.BigInteger(),
            nullable=False,
            comment="ecommerce.orders.id; no foreign key: services share no constraints",
        ),
        sa.Column("user_id", sa.BigInteger(), nullable=False, comment="ecommerce.users.id"),
        sa.Column("amount", sa.Numeric(12, 2), nullable=False),
        sa.Column("currency", sa.CHAR(3), server_default="USD", nullable=False),
        sa.Column("ip", postgresql.INET(), nullable=False),
        sa.Column("country", sa.CHAR(2), nullable=False, comment="ISO 3166-1 alpha-2, where the address is"),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column(
            "card_bin", sa.Text(), nullable=False, comment="The first 6 to 8 digits: issuer and product of the card"
        ),
        sa.Column("card_last4", sa.CHAR(4), nullable=False),
        sa.Column("email_domain", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), server_default="normal", nullable=False),
        sa.Column("pattern", sa.Text(), nullable=True, comment="What made it suspicious or fraud"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="transactions_pkey"),
        sa.UniqueConstraint("order_id", name="transactions_order_id_key"),
        sa.CheckConstraint("amount >= 0", name=op.f("transactions_amount_check")),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("transactions_currency_check")),
        sa.CheckConstraint("country ~ '^[A-Z]{2}$'", name=op.f("transactions_country_check")),
        sa.CheckConstraint("card_bin ~ '^[0-9]{6,8}$'", name=op.f("transactions_card_bin_check")),
        sa.CheckConstraint("card_last4 ~ '^[0-9]{4}$'", name=op.f("transactions_card_last4_check")),
        sa.CheckConstraint("email_domain = lower(email_domain)", name=op.f("transactions_email_domain_check")),
        sa.CheckConstraint("label IN ('normal', 'suspicious', 'fraud')", name=op.f("transactions_label_check")),
        sa.CheckConstraint(
            "pattern IN ('velocity', 'amount', 'geography', 'disposable_email', 'shared_device', 'shared_card_bin')",
            name=op.f("transactions_pattern_check"),
        ),
        sa.CheckConstraint("(label = 'normal') = (pattern IS NULL)", name=op.f("transactions_label_has_pattern_check")),
        schema="fds",
        comment="One payment per order, with the attributes that fraud rules look at",
    )
    newest_first = sa.text("created_at DESC")
    op.create_index(
        "transactions_user_idx",
        "transactions",
        ["user_id", newest_first],
        schema="fds",
        postgresql_include=["amount", "country"],
    )
    op.create_index("transactions_ip_idx", "transactions", ["ip", newest_first], schema="fds")
    op.create_index("transactions_device_idx", "transactions", ["device_id", newest_first], schema="fds")
    op.create_index("transactions_card_bin_idx", "transactions", ["card_bin", newest_first], schema="fds")
    op.create_index(
        "transactions_flagged_idx",
        "transactions",
        [newest_first, "label"],
        schema="fds",
        postgresql_where=sa.text("label <> 'normal'"),
    )


def downgrade() -> None:
    op.drop_table("transactions", schema="fds")
