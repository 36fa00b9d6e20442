"""What a model has to beat: nothing at all, and the rules that anybody would write first."""

from __future__ import annotations

from collections.abc import Collection
from statistics import fmean

from services.ml.examples import Judge
from services.ml.history import HOUR, MINUTE, Case

VELOCITY = 3
"""Payments of a user within ten minutes, this one included."""
FACTOR = 5
"""Times the mean of the user's earlier payments, of which there must be at least ENOUGH."""
ENOUGH = 3
CROWD = 3
"""Users with cards of one BIN within an hour, this one included."""


def always_no(case: Case) -> float:
    """Flags nothing. Right about most payments, which is why accuracy is no figure to report."""
    return 0.0


def simple_rules(disposable_domains: Collection[str] = ()) -> Judge:
    """Velocity, amount, country, device, BIN and e-mail domain, each with a plain limit and 0.5 points; at most 1."""
    domains = frozenset(disposable_domains)

    def judge(case: Case) -> float:
        payment, (user, device, _, card_bin) = case
        since = payment.at - HOUR
        amounts = [earlier.amount for earlier in user if earlier.currency == payment.currency]
        rules = (
            1 + sum(earlier.at >= payment.at - 10 * MINUTE for earlier in user) >= VELOCITY,
            len(amounts) >= ENOUGH and payment.amount >= FACTOR * fmean(amounts),
            bool(user) and all(earlier.country != payment.country for earlier in user),
            any(earlier.user_id != payment.user_id and earlier.at >= since for earlier in device),
            len({earlier.user_id for earlier in card_bin if earlier.at >= since} | {payment.user_id}) >= CROWD,
            payment.email_domain in domains,
        )
        return min(1.0, 0.5 * sum(rules))

    return judge
