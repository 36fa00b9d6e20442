"""What was known before a payment: earlier payments of its user, device, address and card BIN, within fixed bounds."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address
from itertools import groupby
from types import MappingProxyType
from typing import NamedTuple

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MICROSECOND = dt.timedelta(microseconds=1)
SECOND = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86400 * SECOND
"""In microseconds: what PostgreSQL counts time in, so that comparisons here and there agree exactly."""


class Payment(NamedTuple):
    """What may be known of a payment when it is made. Its label and pattern are not among it, on purpose."""

    id: int
    """Orders payments of the same instant; 0 for one that is not stored yet."""
    at: int
    """Microseconds since 1970, UTC."""
    user_id: int
    amount: float
    currency: str
    ip: str
    """In Python's normal form."""
    country: str
    device_id: str
    card_bin: str
    email_domain: str

    @classmethod
    def made(
        cls,
        *,
        at: dt.datetime,
        user_id: int,
        amount: float,
        ip: str,
        country: str,
        device_id: str,
        card_bin: str,
        email_domain: str,
        currency: str = "USD",
        id: int = 0,
    ) -> Payment:
        """A payment from its columns. Raises ValueError for an address that is none, or a time without a zone."""
        if at.tzinfo is None:
            raise ValueError(f"{at} has no time zone")
        moment = (at - EPOCH) // MICROSECOND
        address = str(ip_address(ip))
        return cls(
            id, moment, user_id, float(amount), currency, address, country, device_id, card_bin, email_domain.lower()
        )

    @property
    def time(self) -> dt.datetime:
        return EPOCH + self.at * MICROSECOND


class Reach(NamedTuple):
    """How far back one kind of history goes: at most `most` payments, none older than `span` microseconds."""

    span: int
    most: int


REACH: Mapping[str, Reach] = MappingProxyType(
    {
        "user": Reach(365 * DAY, 50),
        "device": Reach(DAY, 100),
        "ip": Reach(DAY, 100),
        "card_bin": Reach(DAY, 100),
    }
)
"""The kinds of history. Bounded, so that scoring costs the same whoever attacks, and however old the shop is."""

KEYS: Mapping[str, Callable[[Payment], object]] = MappingProxyType(
    {
        "user": lambda payment: payment.user_id,
        "device": lambda payment: payment.device_id,
        "ip": lambda payment: payment.ip,
        "card_bin": lambda payment: payment.card_bin,
    }
)
"""What payments of one kind of history have in common."""


class History(NamedTuple):
    """Payments strictly earlier than the one they belong to, newest first, within REACH."""

    user: tuple[Payment, ...] = ()
    device: tuple[Payment, ...] = ()
    ip: tuple[Payment, ...] = ()
    card_bin: tuple[Payment, ...] = ()

    @classmethod
    def of(cls, payment: Payment, newest_first: Mapping[str, Iterable[Payment]]) -> History:
        """The history out of stored payments of each kind that have the key in common with `payment`.

        Payments of the same instant or later are left out: they were not known.
        """
        return cls(**{kind: _within(payment.at, reach, newest_first[kind]) for kind, reach in REACH.items()})


class Case(NamedTuple):
    """A payment and what was known before it: all that may be looked at to judge it."""

    payment: Payment
    history: History


def replay(payments: Iterable[Payment]) -> Iterator[Case]:
    """Every payment with its history, as it would have been fetched at that moment.

    `payments` are in order of (at, id), all of them since the beginning. Raises ValueError if they are not. Memory
    grows with the number of different keys.
    """
    known: dict[str, defaultdict[object, list[Payment]]] = {kind: defaultdict(list) for kind in REACH}
    last = (-(1 << 62), 0)
    for _, instant in groupby(payments, key=lambda payment: payment.at):
        together = list(instant)
        for payment in together:
            if (payment.at, payment.id) <= last:
                raise ValueError(f"payment {payment.id} is out of order")
            last = (payment.at, payment.id)
            yield Case(
                payment, History.of(payment, {kind: reversed(known[kind][key(payment)]) for kind, key in KEYS.items()})
            )
        # Only now: payments of one instant do not know of each other.
        for payment in together:
            for kind, key in KEYS.items():
                earlier = known[kind][key(payment)]
                earlier.append(payment)
                if len(earlier) >= 2 * REACH[kind].most:
                    del earlier[: -REACH[kind].most]


def _within(at: int, reach: Reach, newest_first: Iterable[Payment]) -> tuple[Payment, ...]:
    oldest = at - reach.span
    found: list[Payment] = []
    for payment in newest_first:
        if payment.at < oldest or len(found) == reach.most:
            break
        if payment.at < at:
            found.append(payment)
    return tuple(found)
