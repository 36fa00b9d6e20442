"""Tables of the fraud detection service: what was paid, from where and with what, and how it was judged."""

from __future__ import annotations

import decimal

from sqlalchemy import CHAR, CheckConstraint, Index, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import INET
from sqlalchemy.orm import Mapped, mapped_column

from services.common.database import BigId, CreatedAt, one_of
from services.fds.database import Base
from services.fds.judgements import LABELS, PATTERNS


class Transaction(Base):
    """A payment of an order, as the fraud detection sees it."""

    __tablename__ = "transactions"
    __table_args__ = (
        UniqueConstraint("order_id"),
        CheckConstraint("amount >= 0", name="amount"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        CheckConstraint("country ~ '^[A-Z]{2}$'", name="country"),
        CheckConstraint("card_bin ~ '^[0-9]{6,8}$'", name="card_bin"),
        CheckConstraint("card_last4 ~ '^[0-9]{4}$'", name="card_last4"),
        CheckConstraint("email_domain = lower(email_domain)", name="email_domain"),
        CheckConstraint(one_of("label", LABELS), name="label"),
        CheckConstraint(one_of("pattern", PATTERNS), name="pattern"),
        CheckConstraint("(label = 'normal') = (pattern IS NULL)", name="label_has_pattern"),
        # Each of the four asks "what happened here lately": equality first, then time, newest first.
        Index("transactions_user_idx", "user_id", text("created_at DESC"), postgresql_include=["amount", "country"]),
        Index("transactions_ip_idx", "ip", text("created_at DESC")),
        Index("transactions_device_idx", "device_id", text("created_at DESC")),
        Index("transactions_card_bin_idx", "card_bin", text("created_at DESC")),
        # The analysts' queue: small, because most transactions are normal.
        Index(
            "transactions_flagged_idx",
            text("created_at DESC"),
            "label",
            postgresql_where=text("label <> 'normal'"),
        ),
        {"comment": "One payment per order, with the attributes that fraud rules look at"},
    )

    id: Mapped[BigId]
    order_id: Mapped[int] = mapped_column(comment="ecommerce.orders.id; no foreign key: services share no constraints")
    user_id: Mapped[int] = mapped_column(comment="ecommerce.users.id")
    amount: Mapped[decimal.Decimal]
    currency: Mapped[str] = mapped_column(CHAR(3), server_default="USD")
    ip: Mapped[str] = mapped_column(INET)
    country: Mapped[str] = mapped_column(CHAR(2), comment="ISO 3166-1 alpha-2, where the address is")
    device_id: Mapped[str] = mapped_column(Text)
    card_bin: Mapped[str] = mapped_column(Text, comment="The first 6 to 8 digits: issuer and product of the card")
    card_last4: Mapped[str] = mapped_column(CHAR(4))
    email_domain: Mapped[str] = mapped_column(Text)
    label: Mapped[str] = mapped_column(Text, server_default="normal")
    pattern: Mapped[str | None] = mapped_column(Text, comment="What made it suspicious or fraud")
    created_at: Mapped[CreatedAt]
