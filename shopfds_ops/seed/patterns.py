"""Who pays when, and how it looks to the fraud detection: a stream of slots, one per order, with the patterns in it.

A pattern is an episode of one or more slots that really shows in the data:

velocity          fraud: 5 to 8 payments of one user within 10 minutes; suspicious: 3 or 4
amount            fraud: at least 10 times the mean of the user's earlier normal orders; suspicious: at least 5 times
geography         from another country than the user's; fraud: within an hour of a payment from home
disposable_email  a user with a throwaway address (who never makes a normal payment)
shared_device     fraud: 4 to 6 users on one device and address within an hour; suspicious: 2 or 3
shared_card_bin   fraud: 4 to 6 users within an hour with cards of one BIN that no normal payment uses; suspicious: 3

Where a batch is too small for an episode (too few users, no history yet), geography, which needs nothing, takes its
place; so the shares of the labels are exact at every size.
"""

from __future__ import annotations

import datetime as dt
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

from services.fds.judgements import PATTERNS
from shopfds_ops.seed.plan import Label, Plan
from shopfds_ops.seed.rows import DAY

START = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
"""Where every batch's year of orders begins. Fixed, so that the same seed gives the same rows on any day."""

SPAN = 365 * DAY
"""Seconds of history in a batch. The last episode may run over by some minutes."""

ATTACK_BINS = 40
"""BINs that only card-testing episodes use."""

HISTORY = 3
"""Normal orders a user needs before an amount can be called unusual."""

FRAUD_FACTOR, SUSPICIOUS_FACTOR = 10, 5

OWN = -1
"""In a slot: the user's own device, card or address."""


class Slot(NamedTuple):
    """One order to be made. `user` is the index in the batch, `at` seconds since the start of the batch's history."""

    at: int
    user: int
    nth: int
    """Which normal order of this user it is, from 0; OWN when no product is left that is new to her."""
    label: Label
    pattern: str
    """Empty for normal."""
    country: int
    device: int
    """OWN, or the number of the first slot of the episode that shares one."""
    card: int
    """OWN, or the number of an attack BIN."""
    host: int
    """OWN, or the address (16 bits) inside the country."""


MIX: dict[Label, tuple[float, ...]] = {
    "fraud": (0.25, 0.45, 0.65, 0.75, 0.875, 1.0),
    "suspicious": (0.20, 0.45, 0.70, 0.80, 0.90, 1.0),
}
"""Cumulative shares of the episodes, in the order of PATTERNS."""

EPISODE_SIZES: dict[Label, dict[str, tuple[int, int]]] = {
    "fraud": {"velocity": (5, 8), "shared_device": (4, 6), "shared_card_bin": (4, 6)},
    "suspicious": {"velocity": (3, 4), "shared_device": (2, 3), "shared_card_bin": (3, 3)},
}
MEAN_EPISODE = {"fraud": 3.3, "suspicious": 1.8}
"""Slots per episode; drawing by episodes left, not slots left, spreads the labels evenly over the year."""


class Walk:
    """Draws the slots of one batch in order. `homes` is the country index of every user."""

    def __init__(self, plan: Plan, homes: bytearray, countries: int, random: Random) -> None:
        self._plan = plan
        self._homes = homes
        self._countries = countries
        self._draw: Callable[[], float] = random.random
        self._left = plan.labels
        self._bought = array("I", bytes(4 * plan.users))
        # Users for whom some product is still new; the front ones are picked more often: regulars of the shop.
        self._open = array("I", range(plan.regular_users))
        self._step = SPAN / plan.orders if plan.orders else 0.0
        self._made = 0

    def __iter__(self) -> Iterator[Slot]:
        left, draw, homes, step = self._left, self._draw, self._homes, self._step
        fraud_size, suspicious_size = MEAN_EPISODE["fraud"], MEAN_EPISODE["suspicious"]
        while self._made < self._plan.orders:
            normal = left["normal"]
            suspicious = left["suspicious"] / suspicious_size
            choice = draw() * (normal + suspicious + left["fraud"] / fraud_size)
            if choice < normal or not (left["suspicious"] or left["fraud"]):
                user, nth = self._customer()
                left["normal"] = normal - 1
                at = int((self._made + draw()) * step)
                self._made += 1
                yield Slot(at, user, nth, "normal", "", homes[user], OWN, OWN, OWN)
            elif left["suspicious"] and (choice < normal + suspicious or not left["fraud"]):
                yield from self._episode("suspicious")
            else:
                yield from self._episode("fraud")

    def _customer(self) -> tuple[int, int]:
        """A user for a normal order, and which normal order of hers it is."""
        users, draw = self._open, self._draw
        count = len(users)
        if not count:
            return int(draw() * self._plan.regular_users), OWN
        share = draw()
        place = int(count * share * (0.4 + 0.6 * share))
        user = users[place]
        nth = self._bought[user]
        self._bought[user] = nth + 1
        if nth + 1 == self._plan.products:
            users[place] = users[-1]
            users.pop()
        return user, nth

    def _episode(self, label: Label) -> list[Slot]:
        pattern = PATTERNS[bisect_right(MIX[label], self._draw())]
        smallest, largest = EPISODE_SIZES[label].get(pattern, (1, 1))
        size = min(smallest + int(self._draw() * (largest - smallest + 1)), self._left[label])
        if size < smallest:
            pattern, size = "geography", 1
        start = int((self._made + self._draw()) * self._step)
        slots = self._slots(label, pattern, size, start) or self._geography(label, start)
        for slot in slots:
            self._left[slot.label] -= 1
        self._made += len(slots)
        return slots

    def _slots(self, label: Label, pattern: str, size: int, start: int) -> list[Slot]:
        """The slots of an episode; none where the batch has not what it needs."""
        if pattern == "velocity":
            return self._velocity(label, size, start)
        if pattern == "amount":
            return self._amount(label, start)
        if pattern == "disposable_email":
            return self._disposable(label, start)
        if pattern in ("shared_device", "shared_card_bin"):
            return self._shared(label, pattern, size, start)
        return []

    def _velocity(self, label: Label, size: int, start: int) -> list[Slot]:
        user = self._anyone()
        home, device, host = self._homes[user], self._made, self._host()
        slots = []
        for _ in range(size):
            slots.append(Slot(start, user, OWN, label, "velocity", home, device, OWN, host))
            start += 10 + int(self._draw() * 70)
        return slots

    def _amount(self, label: Label, start: int) -> list[Slot]:
        for _ in range(8):
            user = self._anyone()
            if self._bought[user] >= HISTORY:
                return [Slot(start, user, OWN, label, "amount", self._homes[user], OWN, OWN, OWN)]
        return []

    def _geography(self, label: Label, start: int) -> list[Slot]:
        slots = []
        if label == "fraud" and self._left["normal"]:
            user, nth = self._customer()
            slots.append(Slot(start, user, nth, "normal", "", self._homes[user], OWN, OWN, OWN))
            start += 600 + int(self._draw() * 2400)
        else:
            user = self._anyone()
        abroad = (self._homes[user] + 1 + int(self._draw() * (self._countries - 1))) % self._countries
        slots.append(Slot(start, user, OWN, label, "geography", abroad, OWN, OWN, self._host()))
        return slots

    def _disposable(self, label: Label, start: int) -> list[Slot]:
        if not self._plan.disposable_users:
            return []
        user = self._plan.regular_users + int(self._draw() * self._plan.disposable_users)
        return [Slot(start, user, OWN, label, "disposable_email", self._homes[user], OWN, OWN, OWN)]

    def _shared(self, label: Label, pattern: str, size: int, start: int) -> list[Slot]:
        if self._plan.regular_users < size:
            return []
        users: dict[int, None] = {}
        while len(users) < size:
            users[self._anyone()] = None
        one_device = pattern == "shared_device"
        device = self._made if one_device else OWN
        card = OWN if one_device else int(self._draw() * ATTACK_BINS)
        host = self._host() if one_device else OWN
        country = self._homes[next(iter(users))]
        slots = []
        for user in users:
            where = country if one_device else self._homes[user]
            slots.append(Slot(start, user, OWN, label, pattern, where, device, card, host))
            start += 60 + int(self._draw() * 240)
        return slots

    def _anyone(self) -> int:
        return int(self._draw() * self._plan.regular_users)

    def _host(self) -> int:
        return int(self._draw() * 65536)
