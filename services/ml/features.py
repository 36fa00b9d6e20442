"""The features of a payment: the one definition that training and scoring share, so that they cannot drift apart."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from statistics import fmean, median

from services.ml.history import DAY, HOUR, MINUTE, REACH, History, Payment

VERSION = 1
"""Raised whenever the same payment gives other numbers: models of another version are refused, not fed wrong ones."""

NAMES = (
    "amount",
    "amount_to_mean",
    "amount_to_median",
    "amount_to_largest",
    "user_payments",
    "user_known_days",
    "user_minutes_since_last",
    "user_payments_10min",
    "user_payments_1h",
    "user_payments_24h",
    "device_new_to_user",
    "ip_new_to_user",
    "card_bin_new_to_user",
    "country_new_to_user",
    "country_share",
    "minutes_since_elsewhere",
    "device_payments_10min",
    "device_others_1h",
    "device_others_24h",
    "ip_payments_10min",
    "ip_others_1h",
    "card_bin_payments_1h",
    "card_bin_others_1h",
    "card_bin_others_24h",
    "email_domain_bucket",
)
"""In the order of the vector. `new`: 1 if the user has history and it is not in there; `others`: different other users;
`share`: of the user's earlier payments. NaN where there is no history to say."""

CATEGORIES = ("email_domain_bucket",)
"""Features whose numbers are names: more is not more."""

BUCKETS = 251
"""Buckets that e-mail domains are hashed to: no vocabulary that would have to be kept in step with the model."""

NAN = math.nan


def vector(payment: Payment, history: History) -> list[float]:
    """The numbers for one payment, in the order of NAMES."""
    at, user = payment.at, history.user
    amounts = [earlier.amount for earlier in user if earlier.currency == payment.currency]
    elsewhere = next((earlier.at for earlier in user if earlier.country != payment.country), None)
    return [
        payment.amount,
        _ratio(payment.amount, fmean(amounts)) if amounts else NAN,
        _ratio(payment.amount, median(amounts)) if amounts else NAN,
        _ratio(payment.amount, max(amounts)) if amounts else NAN,
        float(len(user)),
        (at - user[-1].at) / DAY if user else NAN,
        (at - user[0].at) / MINUTE if user else NAN,
        _count(user, at - 10 * MINUTE),
        _count(user, at - HOUR),
        _count(user, at - DAY),
        _new(payment.device_id, [earlier.device_id for earlier in user]),
        _new(payment.ip, [earlier.ip for earlier in user]),
        _new(payment.card_bin, [earlier.card_bin for earlier in user]),
        _new(payment.country, [earlier.country for earlier in user]),
        fmean(earlier.country == payment.country for earlier in user) if user else NAN,
        (at - elsewhere) / MINUTE if elsewhere is not None else NAN,
        _count(history.device, at - 10 * MINUTE),
        _others(payment, history.device, HOUR),
        _others(payment, history.device, DAY),
        _count(history.ip, at - 10 * MINUTE),
        _others(payment, history.ip, HOUR),
        _count(history.card_bin, at - HOUR),
        _others(payment, history.card_bin, HOUR),
        _others(payment, history.card_bin, DAY),
        float(zlib.crc32(payment.email_domain.encode()) % BUCKETS),
    ]


def fingerprint() -> str:
    """What a model must agree on with the process that scores with it: version, names, order and reach of history."""
    content = [VERSION, NAMES, CATEGORIES, BUCKETS, {kind: list(reach) for kind, reach in REACH.items()}]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _ratio(amount: float, usual: float) -> float:
    return amount / usual if usual else NAN


def _count(newest_first: Sequence[Payment], since: int) -> float:
    return float(sum(earlier.at >= since for earlier in newest_first))


def _new(value: str, earlier: Sequence[str]) -> float:
    return float(value not in earlier) if earlier else NAN


def _others(payment: Payment, newest_first: Sequence[Payment], span: int) -> float:
    since = payment.at - span
    return float(len({earlier.user_id for earlier in newest_first if earlier.at >= since} - {payment.user_id}))
