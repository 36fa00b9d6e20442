"""The people and the goods of one batch, as compact arrays that orders are drawn from."""

from __future__ import annotations

import math
from array import array
from random import Random

from shopfds_ops.seed import catalogue
from shopfds_ops.seed.plan import Plan
from shopfds_ops.seed.rows import FirstIds

CHEAPEST, DEAREST = 400, 160_000
"""Prices in cents."""

STEP = 0.05
"""Small catalogues span fewer prices: a product costs at most about this share more than the one before it."""

TASTES = (0.15, 0.75)
"""Where in the catalogue, by price, users feel at home. Away from both ends: what is dearest stays for the frauds."""


class Market:
    """Users by index in the batch, products by their rank in price. A few bytes each."""

    def __init__(self, plan: Plan, first: FirstIds, batch: int) -> None:
        self.plan = plan
        self.first = first
        self._seed = f"{plan.rng_seed}:{batch}"
        people = self.random("people")
        self.homes = bytearray(people.choices(range(len(catalogue.COUNTRIES)), catalogue.COUNTRY_WEIGHTS, k=plan.users))
        """The country of each user, as an index of catalogue.COUNTRIES."""
        low, high = TASTES
        self.tastes = array(
            "I", (int(plan.products * (low + (high - low) * people.random())) for _ in range(plan.users))
        )
        """The price rank that each user's purchases lie around."""
        span = min(math.log(DEAREST / CHEAPEST), STEP * (plan.products - 1)) / max(1, plan.products - 1)
        self.prices = array("q", (_charming(CHEAPEST * math.exp(span * rank)) for rank in range(plan.products)))
        """Cents, by rank, ascending."""
        order = list(range(plan.products))
        self.random("goods").shuffle(order)
        self.products = array("I", order)
        """The index of the product at each rank: shuffled, since ids should not betray the price."""

    def random(self, purpose: str) -> Random:
        """A generator of its own for each purpose, so that no part's draws move another's."""
        return Random(f"{self._seed}:{purpose}")  # noqa: S311 - test data, reproducible on purpose

    def email_domain(self, user: int) -> str:
        """The last users have a disposable address."""
        domains = catalogue.DISPOSABLE_DOMAINS if user >= self.plan.regular_users else catalogue.EMAIL_DOMAINS
        return domains[user % len(domains)]


def _charming(cents: float) -> int:
    """A price as shops write it: 19.99."""
    return int(cents // 100) * 100 + 99
