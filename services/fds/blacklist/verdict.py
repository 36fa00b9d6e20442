"""The answer to a question to the blacklist: which entries list the values asked about, and who said so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.fds.blacklist.entries import Entry, Target


@dataclass(frozen=True, slots=True)
class Hit:
    """A value that was asked about, and the entry that lists it (a range, a parent domain, or the value itself)."""

    asked: Target
    entry: Entry


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer about all values together. `source` says who gave it; `detour` why it was not this worker's
    snapshot, or where nobody follows the record not a master of the copy."""

    hits: tuple[Hit, ...]
    source: Literal["snapshot", "master", "replica", "record"]
    detour: str = ""

    @property
    def listed(self) -> bool:
        return bool(self.hits)
