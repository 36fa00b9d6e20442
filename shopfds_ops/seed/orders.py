"""Orders, their items, payments and reviews as COPY text: the part of the generator where every microsecond counts."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import islice

from shopfds_ops.seed import catalogue
from shopfds_ops.seed.market import Market
from shopfds_ops.seed.patterns import FRAUD_FACTOR, HISTORY, OWN, SPAN, START, SUSPICIOUS_FACTOR, Slot
from shopfds_ops.seed.rows import DAY, NULL, Rows, clocks, days, money, rows

RECENT = SPAN - 14 * DAY
"""Orders after this may still be on their way."""

OLD_STATUS = ("delivered",) * 18 + ("cancelled", "refunded")
RECENT_STATUS = ("pending", "paid", "paid", "shipped", "shipped", "shipped") + ("delivered",) * 13 + ("cancelled",)
ODD_STATUS = {"suspicious": ("delivered", "pending", "cancelled"), "fraud": ("refunded", "cancelled")}
ITEM_COUNTS = (1,) * 7 + (2,) * 6 + (3,) * 4 + (4,) * 3
QUANTITIES = (1,) * 15 + (2,) * 4 + (3,)
RATINGS = (5,) * 9 + (4,) * 6 + (3,) * 3 + (2, 1)
REVIEW_DAYS = 30

BINS = tuple(str(400000 + 1009 * number) for number in range(150))
ATTACK_BIN = 590000
"""The first BIN of the episodes that share one."""

USUAL = 4
"""A normal order stays below this many times the mean of the user's earlier ones: no normal amount looks odd."""


class OrderBook:
    """Writes orders slot by slot, and remembers what each user spent so far."""

    def __init__(self, market: Market) -> None:
        self._market = market
        plan = market.plan
        self._made = 0
        self._draw = market.random("items").random
        self._spent = array("q", bytes(8 * plan.users))
        self._count = array("I", bytes(4 * plan.users))
        self._unreviewed = plan.reviewable
        self._reviews_left = plan.reviews
        self._sentences = catalogue.sentences(market.random("reviews")) if plan.reviews else ()
        self._prices = [money(price) for price in market.prices]
        self._days = days(START, SPAN // DAY + REVIEW_DAYS + 3)
        self._clock = clocks()

    def write(self, slots: Iterator[Slot], count: int) -> tuple[Rows, ...]:  # noqa: PLR0912, PLR0915 - see above
        """The rows of the next `count` slots, in an order that satisfies the foreign keys."""
        market, draw = self._market, self._draw
        tastes, cents, product_of = market.tastes, market.prices, market.products
        price_texts, day_texts, clock_texts = self._prices, self._days, self._clock
        spent, counts, domain = self._spent, self._count, market.email_domain
        countries = catalogue.COUNTRIES
        products = len(cents)
        reach = max(1, products // 25)
        first = market.first
        first_user, first_product, first_transaction = first.user, first.product, first.transaction
        orders: list[str] = []
        items: list[str] = []
        transactions: list[str] = []
        reviews: list[str] = []
        made = self._made
        for at, user, nth, label, pattern, country, device, card, host in islice(slots, count):
            order = first.order + made
            key = first_user + user
            when = day_texts[at // DAY] + clock_texts[at % DAY]
            taste = tastes[user]

            if pattern == "amount":
                mean = spent[user] // counts[user] + 1
                if label == "fraud":
                    rank = products - 1 - int(draw() * (products // 10 + 1))
                    wanted = mean * (FRAUD_FACTOR + int(draw() * 6))
                else:
                    rank = taste
                    wanted = int(mean * (SUSPICIOUS_FACTOR + 2.5 * draw()))
                price = cents[rank]
                quantity = -(-wanted // price)
                total = quantity * price
                items.append(f"{order}\t{first_product + product_of[rank]}\t{quantity}\t{price_texts[rank]}\n")
            else:
                if nth >= 0:  # 0, +1, -1, +2, -2 ... around the taste: never the same product twice
                    rank = (taste + (nth + 1 >> 1 if nth & 1 else -(nth >> 1))) % products
                else:
                    rank = (taste + int((draw() - draw()) * reach)) % products
                price = cents[rank]
                lead = first_product + product_of[rank]
                quantity = QUANTITIES[int(draw() * 20)]
                total = quantity * price
                lines = [f"{order}\t{lead}\t{quantity}\t{price_texts[rank]}\n"]
                more = ITEM_COUNTS[int(draw() * 20)] - 1
                if more:
                    ranks = {rank}
                    for _ in range(more):
                        rank = (taste + int((draw() - draw()) * reach)) % products
                        if rank not in ranks:
                            ranks.add(rank)
                            quantity = QUANTITIES[int(draw() * 20)]
                            total += quantity * cents[rank]
                            lines.append(
                                f"{order}\t{first_product + product_of[rank]}\t{quantity}\t{price_texts[rank]}\n"
                            )
                if not pattern:
                    bought = counts[user]
                    if bought >= HISTORY and total * bought > USUAL * spent[user]:
                        total = price
                        del lines[1:]
                        lines[0] = f"{order}\t{lead}\t1\t{money(price)}\n"
                    spent[user] += total
                    counts[user] = bought + 1
                items += lines

            if label == "normal":
                status = OLD_STATUS[int(draw() * 20)] if at < RECENT else RECENT_STATUS[int(draw() * 20)]
                if nth >= 0 and self._reviews_left:
                    if draw() * self._unreviewed < self._reviews_left:
                        status = "delivered"
                        reviews.append(self._review(key, lead, order, at))
                    self._unreviewed -= 1
            else:
                options = ODD_STATUS[label]
                status = options[int(draw() * len(options))]

            amount = f"{total // 100}.{total % 100:02d}"
            orders.append(f"{order}\t{key}\t{status}\t{amount}\t{when}\n")
            if host == OWN:
                host = user & 0xFFFF  # noqa: PLW2901
            hardware = f"dev-{key:x}-{at & 1}" if device == OWN else f"dev-{first.order + device:x}-s"
            issuer = BINS[user % 150] if card == OWN else ATTACK_BIN + card
            transactions.append(
                f"{first_transaction + made}\t{order}\t{key}\t{amount}\t10.{country}.{host >> 8}.{host & 255}\t"
                f"{countries[country]}\t{hardware}\t{issuer}\t{(user * 7919 + 1234) % 10000:04d}\t{domain(user)}\t"
                f"{label}\t{pattern or NULL}\t{when}\n"
            )
            made += 1
        self._made = made
        return (
            rows("ecommerce.orders", orders),
            rows("ecommerce.order_items", items),
            rows("fds.transactions", transactions),
            rows("ecommerce.reviews", reviews),
        )

    def _review(self, user: int, product: int, order: int, at: int) -> str:
        plan, draw = self._market.plan, self._draw
        key = self._market.first.review + plan.reviews - self._reviews_left
        self._reviews_left -= 1
        rating = RATINGS[int(draw() * 20)]
        titles = catalogue.TITLES[rating]
        title = titles[int(draw() * len(titles))]
        body = self._sentences[int(draw() * len(self._sentences))]
        at += 2 * DAY + int(draw() * (REVIEW_DAYS - 2) * DAY)
        when = self._days[at // DAY] + self._clock[at % DAY]
        return f"{key}\t{user}\t{product}\t{order}\t{rating}\t{title}\t{body}\t{when}\n"
