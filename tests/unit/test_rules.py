"""Rules: pure, bounded, monotone; what is blacklisted is refused, what is not known is never approved."""

from __future__ import annotations

import datetime as dt
import decimal
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.fds.rules.evaluation import Assessment, evaluate
from services.fds.rules.facts import Count, Facts, History, Subject
from services.fds.rules.ruleset import RuleSet, RuleSetError

NOW = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)
DEFAULT = RuleSet.default()
SEVERITY = {"approve": 0, "review": 1, "reject": 2}

counts = st.fixed_dictionaries(
    {
        subject: st.fixed_dictionaries(
            {seconds: st.builds(Count, st.integers(1, 60), st.integers(1, 10)) for seconds in windows}
        )
        for subject, windows in DEFAULT.windows.items()
    }
)
countries = st.sampled_from(["DE", "FR", "KR"])
amounts = st.decimals(min_value=0, max_value=100_000, places=2)
histories = st.builds(
    History,
    orders=st.integers(0, 10),
    mean_amount=st.none() | amounts,
    countries=st.frozensets(countries),
    devices=st.frozensets(st.sampled_from(["a", "b"])),
    last_country=st.none() | countries,
    last_at=st.none() | st.integers(-60, 10_000).map(lambda seconds: NOW - dt.timedelta(seconds=seconds)),
)
facts = st.builds(
    Facts,
    at=st.just(NOW),
    amount=amounts,
    country=countries,
    device=st.sampled_from(["a", "b", "c"]),
    email_domain=st.sampled_from(["example.com", "mailinator.com", "eu.mailinator.com", "notmailinator.com", ""]),
    blacklisted=st.booleans(),
    counts=counts,
    history=histories,
)
holes = st.tuples(st.booleans(), st.sets(st.sampled_from(sorted(DEFAULT.windows))), st.booleans()).filter(any)


def without(known: Facts, hole: tuple[bool, set[Subject], bool]) -> Facts:
    """The facts, with some of them not learnt."""
    blacklist, subjects, history = hole
    return replace(
        known,
        blacklisted=None if blacklist else known.blacklisted,
        counts={subject: windows for subject, windows in known.counts.items() if subject not in subjects},
        history=None if history else known.history,
    )


def usual() -> Facts:
    """An order about which nothing is odd."""
    return Facts(
        at=NOW,
        amount=decimal.Decimal(20),
        country="DE",
        device="a",
        email_domain="example.com",
        blacklisted=False,
        counts={subject: {seconds: Count(1, 1) for seconds in spans} for subject, spans in DEFAULT.windows.items()},
        history=History(
            orders=5,
            mean_amount=decimal.Decimal(25),
            countries=frozenset({"DE"}),
            devices=frozenset({"a"}),
            last_country="DE",
            last_at=NOW - dt.timedelta(days=3),
        ),
    )


def counted(subject: Subject, count: Count) -> Facts:
    known = usual()
    return replace(known, counts={**known.counts, subject: dict.fromkeys(DEFAULT.windows[subject], count)})


def elsewhere(ago: dt.timedelta) -> Facts:
    known = usual()
    assert known.history is not None
    return replace(known, country="KR", history=replace(known.history, last_at=NOW - ago))


def named(assessment: Assessment) -> list[str]:
    return [one.rule for one in assessment.contributions]


@given(facts)
def test_the_score_is_the_bounded_sum_of_its_reasons_and_the_decision_follows_from_it(known: Facts) -> None:
    said = evaluate(DEFAULT, known)
    assert said.risk_score == min(100, sum(one.points for one in said.contributions))
    assert all(one.reason for one in said.contributions)
    assert said.unknown == ()
    levels = DEFAULT.levels
    assert (said.risk_level, said.decision) == (
        ("high", "reject")
        if said.risk_score >= levels.high
        else ("medium", "review")
        if said.risk_score >= levels.medium
        else ("low", "approve")
    )
    assert evaluate(DEFAULT, known) == said


@given(facts, holes)
def test_what_is_not_known_is_never_approved_and_never_adds_to_the_score(
    known: Facts, hole: tuple[bool, set[Subject], bool]
) -> None:
    less = evaluate(DEFAULT, without(known, hole))
    assert less.decision != "approve"
    assert less.unknown
    assert less.risk_score <= evaluate(DEFAULT, known).risk_score


@given(facts, holes | st.just((False, set(), False)), st.integers(0, 3))
def test_what_is_blacklisted_is_refused_whatever_else_is_known_and_however_the_rules_are_set(
    known: Facts, hole: tuple[bool, set[Subject], bool], points: int
) -> None:
    rules = tuple(rule.model_copy(update={"points": points}) for rule in DEFAULT.rules)
    weak = RuleSet(version="weak", levels=DEFAULT.levels, rules=rules)
    listed = replace(without(known, hole), blacklisted=True)
    said = evaluate(weak, listed)
    assert (said.risk_score, said.risk_level, said.decision) == (100, "high", "reject")


@given(facts, st.sampled_from(sorted(DEFAULT.windows)), st.integers(0, 50), st.integers(0, 10))
def test_more_orders_or_users_never_lower_the_score(known: Facts, subject: Subject, orders: int, users: int) -> None:
    more = {s: Count(one.orders + orders, one.users + users) for s, one in known.counts[subject].items()}
    before = evaluate(DEFAULT, known)
    after = evaluate(DEFAULT, replace(known, counts={**known.counts, subject: more}))
    assert after.risk_score >= before.risk_score
    assert SEVERITY[after.decision] >= SEVERITY[before.decision]


@given(facts, st.sets(st.sampled_from([rule.name for rule in DEFAULT.rules]), max_size=len(DEFAULT.rules) - 1))
def test_another_rule_never_lowers_the_score(known: Facts, left_out: set[str]) -> None:
    rules = tuple(rule for rule in DEFAULT.rules if rule.name not in left_out)
    fewer = RuleSet(version="fewer", levels=DEFAULT.levels, rules=rules)
    before, after = evaluate(fewer, known), evaluate(DEFAULT, known)
    assert after.risk_score >= before.risk_score
    assert SEVERITY[after.decision] >= SEVERITY[before.decision]


def test_a_usual_order_is_approved_without_a_reason_against_it() -> None:
    said = evaluate(DEFAULT, usual())
    assert (said.risk_score, said.risk_level, said.decision, said.contributions) == (0, "low", "approve", ())


@pytest.mark.parametrize(
    ("odd", "reasons", "decision"),
    [
        (counted(Subject.user, Count(3, 1)), ["user_velocity"], "review"),
        (counted(Subject.user, Count(5, 1)), ["user_velocity", "user_velocity_high"], "reject"),
        (counted(Subject.device, Count(2, 2)), ["shared_device"], "review"),
        (counted(Subject.device, Count(4, 4)), ["shared_device", "shared_device_many"], "reject"),
        (counted(Subject.ip, Count(11, 1)), ["ip_velocity"], "review"),
        (counted(Subject.card, Count(6, 1)), ["card_velocity"], "review"),
        (replace(usual(), amount=decimal.Decimal(125)), ["amount"], "review"),
        (replace(usual(), amount=decimal.Decimal(250)), ["amount", "amount_high"], "reject"),
        (replace(usual(), device="new"), ["new_device"], "approve"),
        (elsewhere(dt.timedelta(days=3)), ["new_country"], "review"),
        (elsewhere(dt.timedelta(minutes=5)), ["impossible_travel", "new_country"], "reject"),
        (replace(usual(), email_domain="eu.mailinator.com"), ["disposable_email"], "review"),
        (replace(usual(), email_domain="notmailinator.com"), [], "approve"),
        (replace(usual(), history=History()), [], "approve"),
    ],
)
def test_each_rule_sees_what_it_is_for(odd: Facts, reasons: list[str], decision: str) -> None:
    said = evaluate(DEFAULT, odd)
    assert (named(said), said.decision) == (reasons, decision)


VALID = """
version = "1"
levels = { medium = 30, high = 70 }
[[rules]]
kind = "velocity"
name = "v"
points = 10
subject = "user"
seconds = 60
over = 3
"""


def test_the_hash_is_of_what_is_said_and_not_of_how_it_is_written() -> None:
    plain = RuleSet.parse(VALID)
    again = RuleSet.parse(
        VALID.replace("over = 3", "over    = 3  # three").replace("medium = 30, high = 70", "high=70,medium=30")
    )
    assert plain.hash == again.hash
    assert len({plain.hash, RuleSet.parse(VALID.replace("over = 3", "over = 4")).hash, DEFAULT.hash}) == 3
    assert RuleSet.default().hash == DEFAULT.hash


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("over = 3", "over = 0", "over"),
        ("points = 10", "points = -1", "points"),
        ("points = 10", "points = 101", "points"),
        ("seconds = 60", "seconds = 86401", "seconds"),
        ('subject = "user"', 'subject = "moon"', "subject"),
        ('kind = "velocity"', 'kind = "magic"', "rules.0"),
        ("over = 3", "over = 3\nextra = 1", "extra"),
        ("medium = 30", "medium = 70", "medium"),
        ("over = 3", "over = 3\n" + VALID.partition("70 }")[2], "twice"),
        ('version = "1"', "", "version"),
        ("[[rules]]", "[[rules", "not TOML"),
    ],
)
def test_a_rule_set_that_is_wrong_is_refused_and_the_place_is_named(old: str, new: str, said: str) -> None:
    with pytest.raises(RuleSetError, match=said):
        RuleSet.parse(VALID.replace(old, new))


def test_a_rule_set_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DEFAULT.rules[0].points = 1  # type: ignore[misc]
