"""One line of the benchmark table: a figure of ours, the same work by hand, their ratio and its limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """`what` names the unit. Without `by_hand` the limit is for our own figure, else for the ratio."""

    what: str
    ours: float
    by_hand: float | None
    ratio: float | None
    limit: float

    @property
    def kept(self) -> bool:
        return (self.ours if self.ratio is None else self.ratio) <= self.limit
