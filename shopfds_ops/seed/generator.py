"""The rows of one batch, chunk by chunk: pure, in constant memory, the same for the same plan, batch and first ids.

Memory grows by a few bytes per user and product, and not with the orders. Rows are written as finished lines of COPY
text, because a million orders are five million rows: an adapter per field would cost more than PostgreSQL does.
"""

from __future__ import annotations

import datetime as dt
from array import array
from collections.abc import Iterator

from shopfds_ops.seed import catalogue
from shopfds_ops.seed.market import Market
from shopfds_ops.seed.orders import OrderBook
from shopfds_ops.seed.patterns import START, Walk
from shopfds_ops.seed.plan import Plan
from shopfds_ops.seed.rows import DAY, Chunk, FirstIds, clock, days, joined, money, rows

VERSION = 1
"""Raised when the same plan gives other rows: a batch begun by another version cannot be continued."""

SIGNUP_DAYS = 730
"""Users sign up and products appear within so many days before the first order."""

CHUNK = 50_000
"""Users, products or orders per chunk. Every chunk visits nearly every page of the indexes that are not in the order of
the rows: small ones make a server whose memory holds less than these indexes write the same pages again and again."""

PIECE = 10_000
"""Orders that are held as single lines before they are joined: lines take several times the memory of their text."""

NO_PASSWORD = "!seeded"  # noqa: S105 - a marker, as in /etc/shadow
"""Not the output of any password hash, so nobody can log in as a seeded user. A known password for all would be a back
door; an honest argon2 hash each would cost 50 ms per user."""


class Generator:
    """One batch. Its iterators give the same rows every time, from wherever they are told to begin."""

    def __init__(self, plan: Plan, first: FirstIds, batch: int) -> None:
        self._plan = plan
        self._first = first
        self._market = Market(plan, first, batch)
        self._days = days(START - dt.timedelta(days=SIGNUP_DAYS), SIGNUP_DAYS)

    def chunks(self, users: int = 0, products: int = 0, orders: int = 0, size: int = CHUNK) -> Iterator[Chunk]:
        """All rows that are not done yet (the arguments say how many are), in an order that satisfies foreign keys."""
        if users < self._plan.users:
            yield from self._users(users, size)
        if products < self._plan.products:
            yield from self._products(products, size)
        if orders < self._plan.orders:
            yield from self._orders(orders, size)

    def _users(self, done: int, size: int) -> Iterator[Chunk]:
        random = self._market.random("users")
        draw = random.random
        first_names, last_names = catalogue.names(random)
        in_mail = {name: catalogue.local_part(name) for name in first_names + last_names}
        lines: list[str] = []
        for index in range(self._plan.users):
            given = first_names[int(draw() * len(first_names))]
            family = last_names[int(draw() * len(last_names))]
            signed_up = self._moment(draw())
            if index < done:
                continue
            key = self._first.user + index
            mail = f"{in_mail[given]}.{in_mail[family]}.{key}@{self._market.email_domain(index)}"
            home = catalogue.COUNTRIES[self._market.homes[index]]
            lines.append(f"{key}\t{mail}\t{given} {family}\t{NO_PASSWORD}\t{home}\t{signed_up}\n")
            if len(lines) == size or index + 1 == self._plan.users:
                yield Chunk("users", index + 1, (rows("ecommerce.users", lines),))
                lines = []

    def _products(self, done: int, size: int) -> Iterator[Chunk]:
        random = self._market.random("products")
        draw = random.random
        colors, phrases = catalogue.goods(random)
        categories = tuple(catalogue.CATEGORIES.items())
        rank_of = array("I", bytes(4 * self._plan.products))
        for rank, index in enumerate(self._market.products):
            rank_of[index] = rank
        lines: list[str] = []
        for index in range(self._plan.products):
            category, nouns = categories[int(draw() * len(categories))]
            noun = nouns[int(draw() * len(nouns))]
            color = colors[int(draw() * len(colors))]
            material = catalogue.MATERIALS[int(draw() * len(catalogue.MATERIALS))]
            phrase = phrases[int(draw() * len(phrases))]
            stock = int(draw() * 500)
            added = self._moment(draw())
            if index < done:
                continue
            key = self._first.product + index
            price = money(self._market.prices[rank_of[index]])
            lines.append(
                f"{key}\tSKU-{key:07d}\t{color} {material} {noun}\t{phrase}\t{category}\t{price}\t{stock}\t{added}\n"
            )
            if len(lines) == size or index + 1 == self._plan.products:
                yield Chunk("products", index + 1, (rows("ecommerce.products", lines),))
                lines = []

    def _orders(self, done: int, size: int) -> Iterator[Chunk]:
        """What a user buys depends on what she bought before: so the orders that are done are generated again and
        thrown away, which costs one core some seconds per million, and no memory."""
        slots = iter(Walk(self._plan, self._market.homes, len(catalogue.COUNTRIES), self._market.random("orders")))
        book = OrderBook(self._market)
        for start in range(0, done, PIECE):
            book.write(slots, min(PIECE, done - start))
        while done < self._plan.orders:
            end = min(done + size, self._plan.orders)
            pieces = [book.write(slots, min(PIECE, end - start)) for start in range(done, end, PIECE)]
            done = end
            yield Chunk("orders", done, tuple(map(joined, zip(*pieces, strict=True))))

    def _moment(self, share: float) -> str:
        at = int(share * SIGNUP_DAYS * DAY)
        return self._days[at // DAY] + clock(at)
