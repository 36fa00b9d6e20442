"""The patterns behind the labels: each can be found again in the rows, by what it claims."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shopfds_ops.seed import catalogue
from shopfds_ops.seed.plan import Plan
from tests.unit.seeded import Row, Seeded, seeded

PATTERNS = {"velocity", "amount", "geography", "disposable_email", "shared_device", "shared_card_bin"}
HOUR = dt.timedelta(hours=1)
TEN_MINUTES = dt.timedelta(minutes=10)


@pytest.fixture(scope="module")
def default() -> Seeded:
    return seeded(Plan())


def _near(row: Row, rows: list[Row], span: dt.timedelta) -> list[Row]:
    return [other for other in rows if abs(other["created_at"] - row["created_at"]) <= span]


def _by(rows: Seeded, column: str) -> dict[object, list[Row]]:
    found: dict[object, list[Row]] = defaultdict(list)
    for row in rows.transactions:
        found[row[column]].append(row)
    return found


def _of(rows: Seeded, pattern: str) -> list[Row]:
    return [row for row in rows.transactions if row["pattern"] == pattern]


def test_every_pattern_occurs_under_both_labels(default: Seeded) -> None:
    found = {(row["label"], row["pattern"]) for row in default.transactions}
    assert found == {("normal", None)} | {(label, pattern) for label in ("suspicious", "fraud") for pattern in PATTERNS}


def test_patterns_are_spread_over_the_whole_year(default: Seeded) -> None:
    per_month = Counter(row["created_at"].month for row in default.transactions if row["label"] == "fraud")
    assert len(per_month) == 12
    assert max(per_month.values()) < 3 * min(per_month.values())


@pytest.mark.parametrize(("label", "payments"), [("fraud", 5), ("suspicious", 3)])
def test_a_velocity_payment_is_part_of_a_burst(default: Seeded, label: str, payments: int) -> None:
    by_user = _by(default, "user_id")
    for row in _of(default, "velocity"):
        if row["label"] == label:
            burst = [near for near in _near(row, by_user[row["user_id"]], TEN_MINUTES) if near["pattern"] == "velocity"]
            assert len(burst) >= payments


@pytest.mark.parametrize(("label", "times"), [("fraud", 10), ("suspicious", 5)])
def test_an_amount_is_far_above_the_users_own_history(default: Seeded, label: str, times: int) -> None:
    history: dict[int, list[Decimal]] = defaultdict(list)
    seen = 0
    for row in default.transactions:
        earlier = history[row["user_id"]]
        if row["pattern"] == "amount" and row["label"] == label:
            assert len(earlier) >= 3
            assert Decimal(row["amount"]) >= times * sum(earlier) / len(earlier)
            seen += 1
        if row["label"] == "normal":
            earlier.append(Decimal(row["amount"]))
    assert seen


def test_no_normal_amount_looks_odd(default: Seeded) -> None:
    history: dict[int, list[Decimal]] = defaultdict(list)
    for row in default.transactions:
        if row["label"] == "normal":
            earlier = history[row["user_id"]]
            if len(earlier) >= 3:
                assert Decimal(row["amount"]) < 5 * sum(earlier) / len(earlier)
            earlier.append(Decimal(row["amount"]))


def test_a_fraud_of_geography_comes_from_abroad_within_an_hour_of_a_payment_from_home(default: Seeded) -> None:
    home = {row["id"]: row["country"] for row in default.users}
    by_user = _by(default, "user_id")
    for row in _of(default, "geography"):
        assert row["country"] != home[row["user_id"]]
        if row["label"] == "fraud":
            near = _near(row, by_user[row["user_id"]], HOUR)
            assert any(other["country"] == home[row["user_id"]] for other in near)


def test_disposable_addresses_make_no_normal_payment(default: Seeded) -> None:
    for row in default.transactions:
        disposable = row["email_domain"] in catalogue.DISPOSABLE_DOMAINS
        assert disposable == (row["pattern"] == "disposable_email")


@pytest.mark.parametrize(("label", "users"), [("fraud", 4), ("suspicious", 2)])
@pytest.mark.parametrize(("pattern", "column"), [("shared_device", "device_id"), ("shared_card_bin", "card_bin")])
def test_what_is_shared_is_shared_by_several_users_within_the_hour(
    default: Seeded, pattern: str, column: str, label: str, users: int
) -> None:
    groups = _by(default, column)
    for row in _of(default, pattern):
        if row["label"] == label:
            assert len({near["user_id"] for near in _near(row, groups[row[column]], HOUR)}) >= users


def test_normal_payments_come_from_home_with_own_device_and_card(default: Seeded) -> None:
    home = {row["id"]: row["country"] for row in default.users}
    normal = [row for row in default.transactions if row["label"] == "normal"]
    owners: dict[str, set[int]] = defaultdict(set)
    for row in normal:
        assert row["country"] == home[row["user_id"]]
        owners[row["device_id"]].add(row["user_id"])
    assert all(len(users) == 1 for users in owners.values())
    shared = {row["card_bin"] for row in _of(default, "shared_card_bin")}
    assert not shared & {row["card_bin"] for row in normal}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 30), st.integers(1, 10), st.integers(0, 300), st.integers(0, 1000))
def test_where_a_batch_is_too_small_for_an_episode_its_labels_still_mean_something(
    users: int, products: int, orders: int, rng_seed: int
) -> None:
    rows = seeded(Plan(users=users, products=products, orders=orders, reviews=0, rng_seed=rng_seed))
    home = {row["id"]: row["country"] for row in rows.users}
    by_user = _by(rows, "user_id")
    by_device = _by(rows, "device_id")
    for row in rows.transactions:
        match row["pattern"]:
            case "geography":
                assert row["country"] != home[row["user_id"]]
            case "velocity":
                assert len(_near(row, by_user[row["user_id"]], TEN_MINUTES)) >= 3
            case "shared_device":
                assert len({other["user_id"] for other in by_device[row["device_id"]]}) >= 2
            case "disposable_email":
                assert row["email_domain"] in catalogue.DISPOSABLE_DOMAINS
