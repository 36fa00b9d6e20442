"""The judgement of an order: what every rule contributes and why, the score, the level and the decision. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.fds.rules.facts import Facts
from services.fds.rules.ruleset import RuleSet, UnknownFactError

RiskLevel = Literal["low", "medium", "high"]
Decision = Literal["approve", "review", "reject"]

HIGHEST = 100
BLACKLIST = "blacklist"
"""The name under which the blacklist contributes."""
DECISIONS: dict[RiskLevel, Decision] = {"low": "approve", "medium": "review", "high": "reject"}


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one rule adds to the score, and why."""

    rule: str
    points: int
    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A rule that could not be judged, and what was missing."""

    rule: str
    missing: str


@dataclass(frozen=True, slots=True)
class Assessment:
    """The outcome. `risk_score` is 0 to 100: the sum of the contributions, at most 100."""

    risk_score: int
    risk_level: RiskLevel
    decision: Decision
    contributions: tuple[Contribution, ...]
    unknown: tuple[Unknown, ...]
    """While there is any, the decision is never `approve`."""
    ruleset_version: str
    ruleset_hash: str


def evaluate(rules: RuleSet, facts: Facts) -> Assessment:
    """Judge an order.

    What is blacklisted scores 100 and is refused, whatever the rules say. What cannot be known adds nothing to the
    score, but keeps the order from being approved: it is held for review at least.
    """
    contributions: list[Contribution] = []
    unknown: list[Unknown] = []
    if facts.blacklisted is None:
        unknown.append(Unknown(BLACKLIST, "whether a value is blacklisted"))
    elif facts.blacklisted:
        contributions.append(Contribution(BLACKLIST, HIGHEST, "a value of the order is blacklisted"))
    for rule in rules.rules:
        try:
            reason = rule.reason(facts)
        except UnknownFactError as error:
            unknown.append(Unknown(rule.name, str(error)))
            continue
        if reason is not None:
            contributions.append(Contribution(rule.name, rule.points, reason))
    score = min(HIGHEST, sum(one.points for one in contributions))
    level: RiskLevel = "high" if score >= rules.levels.high else "medium" if score >= rules.levels.medium else "low"
    decision = DECISIONS[level]
    if unknown and decision == "approve":
        decision = "review"
    return Assessment(
        risk_score=score,
        risk_level=level,
        decision=decision,
        contributions=tuple(contributions),
        unknown=tuple(unknown),
        ruleset_version=rules.version,
        ruleset_hash=rules.hash,
    )
