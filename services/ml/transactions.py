"""Payments in fds.transactions: all of them with their labels for training, and one payment's history for scoring."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Row, Select, func, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from services.fds.models import Transaction
from services.ml.examples import Labelled
from services.ml.history import MICROSECOND, REACH, History, Payment

PAGE = 10_000
"""Rows fetched at once while all are read: memory holds their vectors, not the rows."""

COLUMNS = (
    Transaction.id,
    Transaction.created_at,
    Transaction.user_id,
    Transaction.amount,
    Transaction.currency,
    func.host(Transaction.ip).label("ip"),
    Transaction.country,
    Transaction.device_id,
    Transaction.card_bin,
    Transaction.email_domain,
)


def labelled(connection: Connection, until: dt.datetime | None = None) -> Iterator[Labelled]:
    """All payments before `until` with their labels, in order of time, through a cursor on the server.

    Leave out with `until` what nobody has judged yet: a new payment counts as normal until somebody says otherwise.
    """
    query = select(*COLUMNS, Transaction.label, func.coalesce(Transaction.pattern, "").label("pattern"))
    if until is not None:
        query = query.where(Transaction.created_at < until)
    query = query.order_by(Transaction.created_at, Transaction.id).execution_options(yield_per=PAGE)
    for row in connection.execute(query):
        yield Labelled(_payment(row), row.label, row.pattern)


async def history(session: AsyncSession | AsyncConnection, payment: Payment) -> History:
    """What is stored that was known before `payment`: one statement, four short index scans."""
    rows = await session.execute(history_query(payment))
    found: dict[str, list[Payment]] = {kind: [] for kind in REACH}
    for row in rows:
        found[row.kind].append(_payment(row))
    for payments in found.values():
        payments.sort(reverse=True, key=lambda earlier: (earlier.at, earlier.id))
    return History.of(payment, found)


def history_query(payment: Payment) -> Select[Any]:
    """The statement that fetches it: for each kind the newest earlier rows within REACH, in any order."""
    keys = {
        "user": Transaction.user_id == payment.user_id,
        "device": Transaction.device_id == payment.device_id,
        "ip": Transaction.ip == payment.ip,
        "card_bin": Transaction.card_bin == payment.card_bin,
    }
    parts = [
        select(literal(kind).label("kind"), *COLUMNS)
        .where(
            keys[kind],
            Transaction.created_at < payment.time,
            Transaction.created_at >= payment.time - reach.span * MICROSECOND,
        )
        .order_by(Transaction.created_at.desc(), Transaction.id.desc())
        .limit(reach.most)
        .subquery(kind)
        for kind, reach in REACH.items()
    ]
    return select(union_all(*(select(part) for part in parts)).subquery("earlier"))


def _payment(row: Row[Any]) -> Payment:
    # PostgreSQL writes addresses in another normal form than Python (IPv4 within IPv6): Payment.made sees to it.
    return Payment.made(
        id=row.id,
        at=row.created_at,
        user_id=row.user_id,
        amount=float(row.amount),
        currency=row.currency,
        ip=row.ip,
        country=row.country,
        device_id=row.device_id,
        card_bin=row.card_bin,
        email_domain=row.email_domain,
    )
