"""Rows as COPY text: which columns are copied, chunks that are committed together, and how values are written."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal

Stage = Literal["users", "products", "orders"]

DAY = 86400
NULL = "\\N"

COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ecommerce.users": ("id", "email", "name", "password_hash", "country", "created_at"),
        "ecommerce.products": ("id", "sku", "name", "description", "category", "price", "stock", "created_at"),
        "ecommerce.orders": ("id", "user_id", "status", "total", "created_at"),
        "ecommerce.order_items": ("order_id", "product_id", "quantity", "unit_price"),
        "ecommerce.reviews": ("id", "user_id", "product_id", "order_id", "rating", "title", "body", "created_at"),
        "fds.transactions": (
            *("id", "order_id", "user_id", "amount", "ip", "country", "device_id"),
            *("card_bin", "card_last4", "email_domain", "label", "pattern", "created_at"),
        ),
    }
)
"""The tables that are seeded, in an order that satisfies the foreign keys, and the columns that are copied."""


@dataclass(frozen=True, slots=True)
class FirstIds:
    """The ids set aside for a batch: each table's rows count up from here."""

    user: int = 1
    product: int = 1
    order: int = 1
    review: int = 1
    transaction: int = 1


@dataclass(frozen=True, slots=True)
class Rows:
    """Lines of COPY text for one table."""

    table: str
    count: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is committed together: how many of the stage's users, products or orders are done with it."""

    stage: Stage
    done: int
    rows: tuple[Rows, ...]


def rows(table: str, lines: Sequence[str]) -> Rows:
    """Finished lines, joined."""
    return Rows(table, len(lines), "".join(lines).encode("ascii"))


def joined(pieces: Iterable[Rows]) -> Rows:
    """Rows of one table that follow each other."""
    parts = tuple(pieces)
    return Rows(parts[0].table, sum(part.count for part in parts), b"".join(part.data for part in parts))


def money(cents: int) -> str:
    """Cents as a decimal with two places; exact."""
    return f"{cents // 100}.{cents % 100:02d}"


def days(start: dt.datetime, count: int) -> list[str]:
    """The dates of `count` days from `start`, each with a trailing blank."""
    return [f"{(start + dt.timedelta(days=day)).date()} " for day in range(count)]


def clock(second: int) -> str:
    """The time of day, in UTC, of a second counted from any midnight."""
    hours, rest = divmod(second % DAY, 3600)
    return f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}+00"


@cache
def clocks() -> tuple[str, ...]:
    """Every time of day, by its second: looking one up is cheaper than writing it anew for each order."""
    return tuple(clock(second) for second in range(DAY))
