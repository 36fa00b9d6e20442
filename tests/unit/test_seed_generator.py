"""Generated rows: reproducible, in agreement with each other at any size, from wherever they are continued."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from decimal import Decimal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shopfds_ops.seed.plan import Plan
from shopfds_ops.seed.rows import COLUMNS, FirstIds
from tests.unit.seeded import Seeded, lines, seeded

LATER = FirstIds(user=1001, product=501, order=10001, review=5001, transaction=10001)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    users, products, orders = draw(st.integers(1, 60)), draw(st.integers(1, 40)), draw(st.integers(0, 400))
    without = Plan(users=users, products=products, orders=orders, reviews=0)
    return Plan(
        users=users,
        products=products,
        orders=orders,
        reviews=draw(st.integers(0, without.reviewable)),
        rng_seed=draw(st.integers(0, 2**63 - 1)),
    )


any_size = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@any_size
@given(plans())
def test_at_any_size_the_rows_agree(plan: Plan) -> None:
    rows = seeded(plan)
    _has_the_sizes_of(rows, plan)
    _totals_are_sums(rows)
    _reviews_are_by_buyers(rows)
    _references_exist(rows)
    _times_are_in_order(rows)


def _has_the_sizes_of(rows: Seeded, plan: Plan) -> None:
    assert len(rows.users) == plan.users
    assert len(rows.products) == plan.products
    assert len(rows.orders) == len(rows.transactions) == plan.orders
    assert len(rows.reviews) == plan.reviews
    for table in (rows.users, rows.products, rows.orders, rows.reviews, rows.transactions):
        assert [row["id"] for row in table] == list(range(1, len(table) + 1))
    found = Counter(row["label"] for row in rows.transactions)
    assert found == {label: count for label, count in plan.labels.items() if count}


def _totals_are_sums(rows: Seeded) -> None:
    sums: dict[int, Decimal] = defaultdict(Decimal)
    prices = {row["id"]: row["price"] for row in rows.products}
    for item in rows.order_items:
        assert item["quantity"] > 0
        assert item["unit_price"] == prices[item["product_id"]]
        sums[item["order_id"]] += Decimal(item["unit_price"]) * item["quantity"]
    assert {row["id"]: Decimal(row["total"]) for row in rows.orders} == sums
    assert [row["amount"] for row in rows.transactions] == [row["total"] for row in rows.orders]
    assert all(re.fullmatch(r"\d+\.\d\d", row["total"]) for row in rows.orders)
    assert all(Decimal(row["price"]) > 0 and row["stock"] >= 0 for row in rows.products)


def _reviews_are_by_buyers(rows: Seeded) -> None:
    buyers = {row["id"]: row["user_id"] for row in rows.orders}
    bought = {(buyers[item["order_id"]], item["product_id"], item["order_id"]) for item in rows.order_items}
    assert all((row["user_id"], row["product_id"], row["order_id"]) in bought for row in rows.reviews)
    assert len({(row["user_id"], row["product_id"]) for row in rows.reviews}) == len(rows.reviews)
    assert all(1 <= row["rating"] <= 5 for row in rows.reviews)
    status = {row["id"]: row["status"] for row in rows.orders}
    assert all(status[row["order_id"]] == "delivered" for row in rows.reviews)


def _references_exist(rows: Seeded) -> None:
    users = {row["id"]: row for row in rows.users}
    assert len({row["email"] for row in rows.users}) == len(rows.users)
    assert len({row["sku"] for row in rows.products}) == len(rows.products)
    assert len({(item["order_id"], item["product_id"]) for item in rows.order_items}) == len(rows.order_items)
    for order, payment in zip(rows.orders, rows.transactions, strict=True):
        assert payment["order_id"] == order["id"]
        assert payment["user_id"] == order["user_id"]
        assert payment["created_at"] == order["created_at"]
        assert payment["email_domain"] == users[payment["user_id"]]["email"].partition("@")[2]


def _times_are_in_order(rows: Seeded) -> None:
    signed_up = {row["id"]: row["created_at"] for row in rows.users}
    ordered = {row["id"]: row["created_at"] for row in rows.orders}
    added = {row["id"]: row["created_at"] for row in rows.products}
    assert all(row["created_at"] > signed_up[row["user_id"]] for row in rows.orders)
    assert all(ordered[item["order_id"]] > added[item["product_id"]] for item in rows.order_items)
    assert all(row["created_at"] > ordered[row["order_id"]] for row in rows.reviews)


@any_size
@given(plans())
def test_the_same_seed_gives_the_same_rows(plan: Plan) -> None:
    assert lines(plan) == lines(plan)


@any_size
@given(plans(), st.data())
def test_a_batch_goes_on_exactly_where_it_was_left(plan: Plan, data: st.DataObject) -> None:
    whole = lines(plan)
    users, products, orders = (
        data.draw(st.integers(0, size), label)
        for label, size in (("users", plan.users), ("products", plan.products), ("orders", plan.orders))
    )
    rest = lines(plan, size=data.draw(st.integers(1, 100)), done=(users, products, orders))
    counts = {"ecommerce.users": users, "ecommerce.products": products}
    counts |= {"ecommerce.orders": orders, "fds.transactions": orders}
    for table, done in counts.items():
        assert whole[table].splitlines()[done:] == rest[table].splitlines()
    assert all(whole[table].endswith(rest[table]) for table in COLUMNS)


def test_another_seed_and_another_batch_give_other_rows() -> None:
    plan = Plan(users=50, products=20, orders=200, reviews=50)
    other = Plan(users=50, products=20, orders=200, reviews=50, rng_seed=43)
    texts = [
        lines(plan)["fds.transactions"],
        lines(other)["fds.transactions"],
        lines(plan, batch=2)["fds.transactions"],
    ]
    assert len(set(texts)) == 3


def test_batches_share_no_id_no_address_and_no_article_number() -> None:
    plan = Plan()
    one, two = seeded(plan), seeded(plan, LATER, batch=2)
    for column, table in (("email", "users"), ("sku", "products")):
        assert not {row[column] for row in getattr(one, table)} & {row[column] for row in getattr(two, table)}
    for table in ("users", "products", "orders", "reviews", "transactions"):
        assert not {row["id"] for row in getattr(one, table)} & {row["id"] for row in getattr(two, table)}


def test_seeded_mail_can_reach_nobody_and_seeded_users_cannot_log_in() -> None:
    for user in seeded(Plan(orders=0, reviews=0)).users:
        assert re.search(r"@([a-z-]+\.example|example\.(com|net|org))$", user["email"])
        assert user["password_hash"].startswith("!")
