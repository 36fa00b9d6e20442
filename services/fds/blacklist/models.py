"""Tables of the blacklist's record: what is listed now, every change, how far the copy and each worker have them."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import CheckConstraint, Index, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from services.common.database import BigId, CreatedAt, one_of
from services.fds.blacklist.entries import Kind
from services.fds.database import Base

ACTIONS = ("added", "extended", "replaced", "ttl", "removed", "expired")
"""extended: added again with a longer life; replaced: added again, told to; ttl: its life was set; expired: swept."""


class BlacklistEntry(Base):
    """A value that is listed, in its canonical form. Rows past `expires_at` are not enforced, and are swept later."""

    __tablename__ = "blacklist_entries"
    __table_args__ = (
        UniqueConstraint("kind", "value"),
        CheckConstraint(one_of("kind", (kind.value for kind in Kind)), name="kind"),
        CheckConstraint("length(value) BETWEEN 1 AND 320", name="value"),
        CheckConstraint("length(reason) BETWEEN 1 AND 500", name="reason"),
        Index("blacklist_entries_expires_idx", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
        {"comment": "What is listed now; Redis Cluster holds a fast copy of it"},
    )

    id: Mapped[BigId]
    kind: Mapped[str] = mapped_column(Text)
    value: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[dt.datetime | None] = mapped_column(comment="NULL: permanent")


class BlacklistChange(Base):
    """One change: who, when, why, and the entry before and after it. Append-only: a trigger refuses anything else."""

    __tablename__ = "blacklist_history"
    __table_args__ = (
        CheckConstraint(one_of("action", ACTIONS), name="action"),
        Index("blacklist_history_entry_idx", "kind", "value", text("id DESC")),
        {"comment": "Every change of the blacklist; append-only"},
    )

    id: Mapped[BigId]
    kind: Mapped[str] = mapped_column(Text)
    value: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    at: Mapped[CreatedAt]
    actor: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    before: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    after: Mapped[dict[str, Any] | None] = mapped_column(JSONB)


class BlacklistApplied(Base):
    """The last change that is known to be safe in the copy. Changes are made one after the other, so that every change
    with a greater id is one that the copy may lack. One row at most; none means that it may lack all."""

    __tablename__ = "blacklist_applied"
    __table_args__ = (
        CheckConstraint("single", name="single"),
        {"comment": "How far the copy in Redis Cluster has the changes"},
    )

    single: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"), comment="Keeps it to one row")
    history_id: Mapped[int] = mapped_column(comment="blacklist_history.id of the last change in the copy")


class BlacklistWorker(Base):
    """A worker that decides by a snapshot of its own. While its lease lasts it may lack what came after `sequence`;
    after that it asks the copy, until it has reported again."""

    __tablename__ = "blacklist_workers"
    __table_args__ = (
        CheckConstraint("length(worker) BETWEEN 1 AND 200", name="worker"),
        CheckConstraint("sequence >= 0", name="sequence"),
        {"comment": "Which worker enforces the blacklist up to which change"},
    )

    worker: Mapped[str] = mapped_column(Text, primary_key=True, comment="Unique among all processes there ever were")
    sequence: Mapped[int] = mapped_column(comment="blacklist_history.id of the last change it enforces; 0: none yet")
    started_at: Mapped[CreatedAt]
    reported_at: Mapped[dt.datetime]
    lease_until: Mapped[dt.datetime] = mapped_column(comment="Until when its snapshot may decide with no other report")
