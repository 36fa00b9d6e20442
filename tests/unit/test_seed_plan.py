"""What may be seeded, and the exact shares of the labels."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shopfds_ops.errors import UsageError
from shopfds_ops.seed.plan import LIMITS, SHARES, Plan, scaled
from shopfds_ops.settings import Seed

NOTHING: dict[str, int | None] = {}


def test_the_default_plan_is_85_10_and_5_per_cent() -> None:
    assert Plan().labels == {"normal": 8500, "suspicious": 1000, "fraud": 500}


@given(st.integers(0, 100_000_000))
def test_labels_add_up_to_the_orders_and_are_never_a_whole_row_off_their_share(orders: int) -> None:
    labels = Plan(orders=orders, reviews=0).labels
    assert sum(labels.values()) == orders
    assert all(abs(labels[label] * 100 - orders * share) < 100 for label, share in SHARES.items())


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("outside", [-1, 10**12])
def test_a_size_out_of_range_is_refused_by_its_name(name: str, outside: int) -> None:
    sizes: dict[str, Any] = {"reviews": 0, name: outside}
    with pytest.raises(UsageError, match=f"{name} = {outside}") as refused:
        Plan(**sizes)
    assert f"--{name}" in refused.value.remedy
    assert refused.value.exit_code == 2


def test_no_users_are_refused() -> None:
    with pytest.raises(UsageError, match="users = 0"):
        Plan(users=0)


def test_more_reviews_than_purchases_are_refused_and_the_remedy_works() -> None:
    with pytest.raises(UsageError, match="90 reviews cannot be") as refused:
        Plan(orders=100, reviews=90)
    assert "--reviews 85" in refused.value.remedy
    assert Plan(orders=100, reviews=85).reviews == 85


def test_one_product_can_be_reviewed_once_by_each_user() -> None:
    with pytest.raises(UsageError):
        Plan(users=10, products=1, orders=1000, reviews=11)
    assert Plan(users=10, products=1, orders=1000, reviews=10).reviewable == 10


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_a_scale_that_is_no_scale_is_refused(scale: float) -> None:
    with pytest.raises(UsageError, match="scale = "):
        scaled(Plan(), scale, NOTHING)


def test_scale_multiplies_what_is_not_given() -> None:
    assert scaled(Plan(), 100, {"users": 700}) == Plan(users=700, products=50_000, orders=1_000_000, reviews=500_000)


def test_reviews_that_were_not_asked_for_give_way_to_fewer_orders() -> None:
    assert scaled(Plan(), 1, {"orders": 100}).reviews == 85


def test_reviews_from_the_settings_give_way_to_fewer_orders_from_the_settings() -> None:
    assert scaled(Seed(orders=100), 1, {}) == Plan(orders=100, reviews=85)
    assert scaled(Seed(orders=100), 1, {"reviews": 0}) == Plan(orders=100, reviews=0)


def test_reviews_that_were_asked_for_do_not() -> None:
    with pytest.raises(UsageError):
        scaled(Plan(), 1, {"orders": 100, "reviews": 5000})


@given(st.floats(1e-6, 100))
def test_every_reasonable_scale_gives_a_plan(scale: float) -> None:
    plan = scaled(Plan(), scale, NOTHING)
    assert plan.users >= 1
    assert plan.products >= 1
