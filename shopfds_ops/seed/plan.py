"""What is to be seeded: sizes, the exact shares of labels, and what is refused before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from shopfds_ops.errors import UsageError

Label = Literal["normal", "suspicious", "fraud"]

SHARES: dict[Label, int] = {"normal": 85, "suspicious": 10, "fraud": 5}
"""Per cent of the transactions."""

LIMITS: dict[str, tuple[int, int]] = {
    "users": (1, 10_000_000),
    "products": (1, 1_000_000),
    "orders": (0, 100_000_000),
    "reviews": (0, 100_000_000),
}
"""The smallest and largest size of one batch. Above, the tables would outgrow the machine this stack is made for."""

DISPOSABLE_SHARE = 25
"""One user in this many signed up with a disposable address; such users never make a normal transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of one batch. There is one transaction per order. Raises UsageError for sizes that cannot be."""

    users: int = 1000
    products: int = 500
    orders: int = 10000
    reviews: int = 5000
    rng_seed: int = 42

    def __post_init__(self) -> None:
        for name, (smallest, largest) in LIMITS.items():
            value = getattr(self, name)
            if not smallest <= value <= largest:
                raise UsageError(
                    f"{name} = {value}: must be from {smallest} to {largest}",
                    remedy=f"give --{name} a value in that range" + (", or a smaller --scale" if value > 0 else ""),
                )
        if not 0 <= self.rng_seed < 2**63:
            raise UsageError(f"rng_seed = {self.rng_seed}: must be from 0 to 2^63-1")
        if self.reviews > self.reviewable:
            raise UsageError(
                f"{self.reviews} reviews cannot be: {self.orders} orders of {self.products} products by {self.users} "
                f"users give at most {self.reviewable}, one for each normal order of a product new to its user",
                remedy=f"use --reviews {self.reviewable} or fewer, or more --orders",
            )

    @property
    def labels(self) -> dict[Label, int]:
        """How many transactions carry each label: the shares, rounded by largest remainder so that they add up."""
        exact = {label: self.orders * share for label, share in SHARES.items()}
        counts = {label: value // 100 for label, value in exact.items()}
        by_remainder = sorted(SHARES, key=lambda label: (-(exact[label] % 100), list(SHARES).index(label)))
        for label in by_remainder[: self.orders - sum(counts.values())]:
            counts[label] += 1
        return counts

    @property
    def disposable_users(self) -> int:
        """Users with a disposable e-mail domain: the last ones of the batch."""
        return self.users // DISPOSABLE_SHARE

    @property
    def regular_users(self) -> int:
        return self.users - self.disposable_users

    @property
    def reviewable(self) -> int:
        """How many reviews there can be: a normal order's first product is new to its user while one is left."""
        return min(self.labels["normal"], self.regular_users * self.products)

    @property
    def rows(self) -> dict[str, int]:
        """Rows that are known before generating; order items come out at about 2.2 per order."""
        return {
            "users": self.users,
            "products": self.products,
            "orders": self.orders,
            "reviews": self.reviews,
            "transactions": self.orders,
        }


class Sizes(Protocol):
    """The sizes of a batch as they were set: not yet known to fit each other."""

    @property
    def users(self) -> int: ...
    @property
    def products(self) -> int: ...
    @property
    def orders(self) -> int: ...
    @property
    def reviews(self) -> int: ...
    @property
    def rng_seed(self) -> int: ...


def scaled(defaults: Sizes, scale: float, given: dict[str, int | None]) -> Plan:
    """The plan for `--scale`: defaults multiplied, except for the sizes that were given by themselves.

    `given` has users, products, orders, reviews and rng_seed; None means not given. Where the reviews were not given
    and would be more than the orders allow, there are as many as they allow.
    """
    if not 0 < scale <= 100_000:
        raise UsageError(f"scale = {scale:g}: must be over 0 and at most 100000", remedy="--scale 10, say")
    sizes = {
        name: value if (value := given.get(name)) is not None else max(smallest, round(getattr(defaults, name) * scale))
        for name, (smallest, _) in LIMITS.items()
    }
    seed = given.get("rng_seed")
    rng_seed = defaults.rng_seed if seed is None else seed
    if given.get("reviews") is None:
        without = Plan(
            users=sizes["users"], products=sizes["products"], orders=sizes["orders"], reviews=0, rng_seed=rng_seed
        )
        sizes["reviews"] = min(sizes["reviews"], without.reviewable)
    return Plan(**sizes, rng_seed=rng_seed)
