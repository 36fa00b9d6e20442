"""What is known of an order when its risk is judged. What could not be learnt is None: never zero, never a guess."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Subject(StrEnum):
    """Whose orders are counted."""

    user = "user"
    ip = "ip"
    device = "device"
    card = "card"
    """First six to eight and last four digits: as much of a card's number as the shop may keep."""
    card_bin = "card_bin"


@dataclass(frozen=True, slots=True)
class Count:
    """What happened at one subject within one window, the order that is judged among it."""

    orders: int
    users: int
    """Different users who made them."""


Counts = Mapping[Subject, Mapping[int, Count]]
"""By subject and window in seconds. A subject that is missing could not be counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A user's earlier orders. Of a user who has none: zero, None and nothing."""

    orders: int = 0
    mean_amount: decimal.Decimal | None = None
    """Over those in the currency of the order that is judged."""
    countries: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()
    last_country: str | None = None
    last_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """An order, and what is known around it."""

    at: dt.datetime
    """When it is made, with a time zone."""
    amount: decimal.Decimal
    country: str
    """ISO 3166-1 alpha-2, of its address."""
    device: str
    email_domain: str
    """Lower case."""
    blacklisted: bool | None
    """None: neither snapshot nor cluster nor record could say."""
    counts: Counts
    history: History | None
