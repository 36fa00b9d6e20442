"""Generated rows read back from their COPY text, so that tests look at exactly what PostgreSQL would get."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from shopfds_ops.seed.generator import CHUNK, Generator
from shopfds_ops.seed.plan import Plan
from shopfds_ops.seed.rows import COLUMNS, NULL, FirstIds

Row = dict[str, Any]
FIRST = FirstIds()


@dataclass(frozen=True)
class Seeded:
    """All rows of one batch, by table without its schema."""

    users: list[Row]
    products: list[Row]
    orders: list[Row]
    order_items: list[Row]
    transactions: list[Row]
    reviews: list[Row]


def lines(
    plan: Plan, first: FirstIds = FIRST, batch: int = 1, size: int = CHUNK, done: tuple[int, int, int] = (0, 0, 0)
) -> dict[str, bytes]:
    """The COPY text of every table, with its chunks joined; without the users, products and orders that are `done`."""
    found = dict.fromkeys(COLUMNS, b"")
    for chunk in Generator(plan, first, batch).chunks(*done, size=size):
        for rows in chunk.rows:
            assert rows.data.count(b"\n") == rows.count
            found[rows.table] += rows.data
    return found


def seeded(plan: Plan, first: FirstIds = FIRST, batch: int = 1) -> Seeded:
    """The rows, with ids as int and times as datetime; money stays text, as exact as it was written."""
    tables: dict[str, list[Row]] = {}
    for table, data in lines(plan, first, batch).items():
        tables[table.partition(".")[2]] = [
            {name: _value(name, text) for name, text in zip(COLUMNS[table], line.split("\t"), strict=True)}
            for line in data.decode().splitlines()
        ]
    return Seeded(**tables)


def _value(column: str, text: str) -> Any:
    if text == NULL:
        return None
    if (
        column == "id"
        or (column.endswith("_id") and column != "device_id")
        or column in ("quantity", "stock", "rating")
    ):
        return int(text)
    return dt.datetime.fromisoformat(text) if column == "created_at" else text
