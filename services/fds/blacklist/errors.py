"""The errors of the blacklist: each says what is wrong with which value, and what is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class BlacklistError(Exception):
    """Something the caller can act on; `remedy` says how."""

    def __init__(self, what: str, *, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


class InvalidValueError(BlacklistError):
    """A value that cannot be on the blacklist: nothing was changed."""


class NotListedError(BlacklistError):
    """The entry to be changed does not exist."""


class UnavailableError(BlacklistError):
    """Nobody could answer or keep the change. Never to be read as "not listed"."""


class CopyUnavailableError(UnavailableError):
    """Redis Cluster could not be asked or written; the record in PostgreSQL still can."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line of an import that cannot be used. `line` counts from 1 (in JSON: the element's number)."""

    line: int
    problem: str


class InvalidListError(BlacklistError):
    """An import with bad lines: nothing was changed."""

    def __init__(self, what: str, bad: Sequence[BadLine] = (), *, remedy: str = "") -> None:
        super().__init__(what, remedy=remedy)
        self.bad = tuple(bad)
