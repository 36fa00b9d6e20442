"""Payments for tests of the model: wild ones that crowd the same keys and moments, and a seeded year made once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from functools import cache

from hypothesis import strategies as st

from services.ml import baselines
from services.ml.examples import Examples, Labelled
from services.ml.history import DAY, HOUR, MINUTE, Payment
from shopfds_ops.seed.catalogue import DISPOSABLE_DOMAINS
from shopfds_ops.seed.plan import Plan
from tests.unit.seeded import seeded

KEY = "a key that is only for tests"
JUDGES = {"always no": baselines.always_no, "rules": baselines.simple_rules(DISPOSABLE_DOMAINS)}

START = int(dt.datetime(2025, 3, 1, tzinfo=dt.UTC).timestamp()) * 1_000_000
STEPS = (0, 0, 1, MINUTE, 10 * MINUTE, 10 * MINUTE + 1, HOUR, HOUR - 1, DAY, DAY + 1, 400 * DAY)
"""Time between payments: none at all, and right at the edges of the windows."""


@st.composite
def payments(draw: st.DrawFn, longest: int = 30) -> list[Payment]:
    """Payments in order of time, of few users, devices, addresses and BINs."""
    at, made = START, []
    for number in range(draw(st.integers(1, longest))):
        at += draw(st.sampled_from(STEPS))
        made.append(
            Payment(
                id=number + 1,
                at=at,
                user_id=draw(st.integers(1, 3)),
                amount=draw(st.sampled_from((0.0, 0.01, 9.99, 250.0, 9_999_999_999.99))),
                currency=draw(st.sampled_from(("USD", "EUR"))),
                ip=draw(st.sampled_from(("10.0.0.1", "2001:db8::7", "10.0.0.2"))),
                country=draw(st.sampled_from(("US", "DE"))),
                device_id=draw(st.sampled_from(("a", "b", "c"))),
                card_bin=draw(st.sampled_from(("400000", "59000001"))),
                email_domain=draw(st.sampled_from(("mail.example", "burner.example"))),
            )
        )
    return made


@cache
def year(orders: int = 4000, rng_seed: int = 42) -> Examples:
    """A seeded year, as the generator makes it."""
    return Examples.of(labelled(orders, rng_seed), JUDGES)


def labelled(orders: int, rng_seed: int = 42) -> Iterator[Labelled]:
    """The labelled payments of a seeded year, in order of time."""
    plan = Plan(users=max(10, orders // 10), products=500, orders=orders, reviews=0, rng_seed=rng_seed)
    for row in sorted(seeded(plan).transactions, key=lambda row: (row["created_at"], row["id"])):
        payment = Payment.made(
            at=row["created_at"],
            amount=float(row["amount"]),
            **{name: row[name] for name in ("id", "user_id", "ip", "country", "device_id", "card_bin", "email_domain")},
        )
        yield Labelled(payment, row["label"], row["pattern"] or "")
