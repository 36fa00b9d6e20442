"""A rule set: which rules count, from where on, and what they weigh. Validated data with a version and a hash."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.fds.rules.facts import Count, Facts, History, Subject

LONGEST_WINDOW = 86400
"""Seconds; for so long orders are counted."""

Points = Annotated[int, Field(ge=0, le=100)]
Window = Annotated[int, Field(ge=1, le=LONGEST_WINDOW)]
Orders = Annotated[int, Field(ge=1)]
Domain = Annotated[str, Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+$")]


class RuleSetError(ValueError):
    """A rule set that cannot be used; the message names the place and what is wrong."""


class UnknownFactError(Exception):
    """A rule cannot be judged, because what it asks for could not be learnt."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Rule(_Frozen):
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
    points: Points

    def reason(self, facts: Facts) -> str | None:
        """Why the rule applies, for people; None if it does not. Raises UnknownFactError."""
        raise NotImplementedError


class VelocityRule(_Rule):
    """More than `over` orders of one subject within a window."""

    kind: Literal["velocity"]
    subject: Subject
    seconds: Window
    over: Orders

    def reason(self, facts: Facts) -> str | None:
        orders = _count(facts, self.subject, self.seconds).orders
        if orders <= self.over:
            return None
        return f"{orders} orders of one {self.subject} within {self.seconds} s; up to {self.over} are usual"


class SharingRule(_Rule):
    """At least `users` different users of one device, card or address within a window."""

    kind: Literal["sharing"]
    subject: Literal[Subject.ip, Subject.device, Subject.card, Subject.card_bin]
    seconds: Window
    users: Annotated[int, Field(ge=2)]

    def reason(self, facts: Facts) -> str | None:
        users = _count(facts, self.subject, self.seconds).users
        return None if users < self.users else f"{users} users of one {self.subject} within {self.seconds} s"


class AmountRule(_Rule):
    """At least `times` the mean of the user's earlier orders, of which there must be `orders`."""

    kind: Literal["amount"]
    times: Annotated[float, Field(gt=1)]
    orders: Orders

    def reason(self, facts: Facts) -> str | None:
        history = _history(facts)
        if history.orders < self.orders or not history.mean_amount:
            return None
        ratio = float(facts.amount / history.mean_amount)
        return (
            None if ratio < self.times else f"{ratio:.1f} times the mean of the user's {history.orders} earlier orders"
        )


class TravelRule(_Rule):
    """An order from another country than the last one, too soon after it to have travelled."""

    kind: Literal["travel"]
    seconds: Annotated[int, Field(ge=1)]

    def reason(self, facts: Facts) -> str | None:
        history = _history(facts)
        if history.last_at is None or history.last_country is None or history.last_country == facts.country:
            return None
        seconds = (facts.at - history.last_at).total_seconds()
        if seconds >= self.seconds:
            return None
        return f"from {facts.country} {max(0, seconds):.0f} s after an order from {history.last_country}"


class NewCountryRule(_Rule):
    """An order from a country that none of the user's earlier orders came from, of which there must be `orders`."""

    kind: Literal["new_country"]
    orders: Orders

    def reason(self, facts: Facts) -> str | None:
        history = _history(facts)
        if history.orders < self.orders or facts.country in history.countries:
            return None
        return f"the first order from {facts.country} after {history.orders} from elsewhere"


class NewDeviceRule(_Rule):
    """An order from a device that none of the user's earlier orders came from, of which there must be `orders`."""

    kind: Literal["new_device"]
    orders: Orders

    def reason(self, facts: Facts) -> str | None:
        history = _history(facts)
        if history.orders < self.orders or facts.device in history.devices:
            return None
        return f"the first order from this device after {history.orders} from others"


class DisposableEmailRule(_Rule):
    """An address at a domain of the list, or below one."""

    kind: Literal["disposable_email"]
    domains: frozenset[Domain]

    def reason(self, facts: Facts) -> str | None:
        domain = facts.email_domain
        while domain:
            if domain in self.domains:
                return f"{domain} gives out throwaway addresses"
            domain = domain.partition(".")[2]
        return None


Rule = Annotated[
    VelocityRule | SharingRule | AmountRule | TravelRule | NewCountryRule | NewDeviceRule | DisposableEmailRule,
    Field(discriminator="kind"),
]


class Levels(_Frozen):
    """The scores from which on the risk is medium and high."""

    medium: Annotated[int, Field(ge=1, le=100)]
    high: Annotated[int, Field(ge=1, le=100)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.medium >= self.high:
            raise ValueError(f"medium ({self.medium}) must be below high ({self.high})")
        return self


class RuleSet(_Frozen):
    """Frozen: a change of it is another rule set, with another hash."""

    version: Annotated[str, Field(min_length=1, max_length=60)]
    levels: Levels
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [rule.name for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"rules named twice: {', '.join(twice)}")
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """The rule set that a TOML text says. Raises RuleSetError."""
        try:
            return cls.model_validate(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise RuleSetError(f"not TOML: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            raise RuleSetError(f"{'.'.join(map(str, first['loc'])) or 'rule set'}: {first['msg']}") from None

    @classmethod
    def load(cls, file: Path) -> Self:
        """The rule set in `file`. Raises RuleSetError, and OSError if it cannot be read."""
        return cls.parse(file.read_text(encoding="utf-8"))

    @classmethod
    def default(cls) -> Self:
        """The rule set that comes with the program."""
        return cls.parse(resources.files(__package__).joinpath("default.toml").read_text(encoding="utf-8"))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what it says, whatever the file's order and spacing: 64 hexadecimal digits."""
        said = self.model_dump(mode="json")
        for rule in said["rules"]:
            if "domains" in rule:
                rule["domains"].sort()
        return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @cached_property
    def windows(self) -> Mapping[Subject, tuple[int, ...]]:
        """What is to be counted: the windows in seconds of each subject that a rule asks about."""
        asked: dict[Subject, set[int]] = {}
        for rule in self.rules:
            if isinstance(rule, VelocityRule | SharingRule):
                asked.setdefault(rule.subject, set()).add(rule.seconds)
        return {subject: tuple(sorted(windows)) for subject, windows in asked.items()}


def _count(facts: Facts, subject: Subject, seconds: int) -> Count:
    windows = facts.counts.get(subject)
    if windows is None or seconds not in windows:
        raise UnknownFactError(f"orders of this {subject}")
    return windows[seconds]


def _history(facts: Facts) -> History:
    if facts.history is None:
        raise UnknownFactError("the user's earlier orders")
    return facts.history
