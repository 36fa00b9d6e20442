"""Features: the same numbers whether a year is replayed or one payment is scored, and nothing of the future."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ml import features
from services.ml.history import HOUR, KEYS, MINUTE, REACH, History, Payment, replay
from tests.unit.ml_payments import START, payments

GOLDEN = (1, "a9d893")


def plain_history(payment: Payment, everything: Sequence[Payment]) -> History:
    """The definition of a history in plain words: filter, sort, cut."""
    found = {}
    for kind, reach in REACH.items():
        same = [
            other
            for other in everything
            if KEYS[kind](other) == KEYS[kind](payment) and payment.at - reach.span <= other.at < payment.at
        ]
        found[kind] = tuple(sorted(same, key=lambda other: (other.at, other.id), reverse=True)[: reach.most])
    return History(**found)


def exact(vector: Sequence[float]) -> list[str]:
    """Floats to compare, to the last bit; NaN is NaN."""
    return [value.hex() for value in vector]


def one(**given: object) -> Payment:
    plain = {
        "id": 1,
        "at": START,
        "user_id": 1,
        "amount": 10.0,
        "currency": "USD",
        "ip": "10.0.0.1",
        "country": "US",
        "device_id": "a",
        "card_bin": "400000",
        "email_domain": "mail.example",
    }
    return Payment(**(plain | given))  # type: ignore[arg-type]


def named(payment: Payment, *earlier: Payment) -> dict[str, float]:
    """The features by name, given all that was paid earlier."""
    return dict(zip(features.NAMES, features.vector(payment, plain_history(payment, earlier)), strict=True))


@given(payments())
def test_training_and_scoring_see_the_same_numbers(made: list[Payment]) -> None:
    for payment, history in replay(made):
        alone = plain_history(payment, made)
        assert history == alone
        assert exact(features.vector(payment, history)) == exact(features.vector(payment, alone))


@given(payments(), st.data())
def test_what_happens_later_changes_nothing(made: list[Payment], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(made)))
    before = [features.vector(*case) for case in replay(made[:cut])]
    after = [features.vector(*case) for case in replay(made)]
    assert [exact(vector) for vector in before] == [exact(vector) for vector in after[:cut]]


@given(payments())
def test_payments_of_one_instant_do_not_know_of_each_other(made: list[Payment]) -> None:
    together = [payment._replace(at=START) for payment in made]
    assert all(history == History() for _, history in replay(together))


@given(payments())
def test_a_history_leaves_out_what_was_not_known_yet(made: list[Payment]) -> None:
    last = made[0]
    later = [payment._replace(id=payment.id + 1) for payment in reversed(made)]
    assert History.of(last, dict.fromkeys(REACH, later)) == History()


def test_a_long_history_is_cut_the_same_way_everywhere() -> None:
    made = [one(id=number, at=START + number // 3) for number in range(1, 400)]
    for payment, history in replay(made):
        assert history == plain_history(payment, made)
    assert len(history.user) == REACH["user"].most
    assert len(history.device) == REACH["device"].most


def test_payments_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="out of order"):
        list(replay([one(id=2), one(id=1)]))
    with pytest.raises(ValueError, match="out of order"):
        list(replay([one(id=1, at=START + 1), one(id=2)]))


def test_labels_cannot_be_among_the_features() -> None:
    assert not {"label", "pattern", "status"} & set(Payment._fields)


@given(payments())
def test_every_vector_has_the_names_and_no_infinity(made: list[Payment]) -> None:
    for case in replay(made):
        vector = features.vector(*case)
        assert len(vector) == len(features.NAMES)
        assert not any(math.isinf(value) for value in vector)


def test_a_first_payment_has_no_history_to_compare_with() -> None:
    found = named(one())
    assert found["user_payments"] == 0
    assert math.isnan(found["amount_to_mean"])
    assert math.isnan(found["device_new_to_user"])


def test_features_say_what_their_names_say() -> None:
    home = [one(id=number, at=START - (10 - number) * HOUR, amount=10.0 * number) for number in (1, 2, 3)]
    stranger = one(id=4, at=START - 5 * MINUTE, user_id=2, device_id="new", card_bin="590000", country="DE")
    found = named(one(id=5, amount=60.0, device_id="new", card_bin="590000", country="DE"), *home, stranger)
    assert found["amount_to_mean"] == 3
    assert found["amount_to_largest"] == 2
    assert found["user_payments"] == 3
    assert found["user_minutes_since_last"] == 7 * 60
    assert (found["user_payments_1h"], found["user_payments_24h"]) == (0, 3)
    assert (found["device_new_to_user"], found["ip_new_to_user"], found["country_new_to_user"]) == (1, 0, 1)
    assert found["country_share"] == 0
    assert (found["device_payments_10min"], found["device_others_1h"], found["card_bin_others_24h"]) == (1, 1, 1)


def test_amounts_of_another_currency_are_not_compared() -> None:
    assert math.isnan(named(one(id=2, at=START + 1, currency="EUR"), one())["amount_to_mean"])


def test_other_numbers_need_another_version() -> None:
    """If this fails, the numbers have changed: raise features.VERSION, and note version and digest here."""
    made = [
        one(
            id=number,
            at=START + number * (7 * MINUTE + 1),
            user_id=number % 3,
            amount=number * 1.5,
            ip=f"10.0.0.{number % 4}",
            device_id="abcde"[number % 5],
            country=("US", "US", "DE")[number * number % 3],
            email_domain=("mail.example", "burner.example")[number % 2],
        )
        for number in range(1, 60)
    ]
    content = [[round(value, 9) for value in features.vector(*case)] for case in replay(made)]
    assert (features.VERSION, hashlib.sha256(json.dumps(content).encode()).hexdigest()[:6]) == GOLDEN


def test_a_payment_is_made_in_normal_form() -> None:
    columns = {"user_id": 1, "amount": 1, "country": "US", "device_id": "a", "card_bin": "400000"}
    at = dt.datetime(2025, 3, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=9)))
    made = Payment.made(at=at, ip="2001:DB8:0::7", email_domain="Mail.Example", **columns)  # type: ignore[arg-type]
    assert (made.time, made.ip, made.email_domain) == (at, "2001:db8::7", "mail.example")
    with pytest.raises(ValueError, match="no time zone"):
        Payment.made(at=at.replace(tzinfo=None), ip="::1", email_domain="x", **columns)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nonsense"):
        Payment.made(at=at, ip="nonsense", email_domain="x", **columns)  # type: ignore[arg-type]
