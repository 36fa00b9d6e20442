"""Progress as typed events: domain code tells a sink what it does, and never prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Phase = Literal["waiting", "started", "done", "changed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """A node or a step changed its phase. `seconds` is set when it ended."""

    name: str
    phase: Phase
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` units of a long task called `name`. `total` 0 means unknown."""

    name: str
    done: int
    total: int
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth saying while work goes on."""

    level: Literal["info", "ok", "warning"]
    text: str


Event = TaskEvent | Progress | Note
Sink = Callable[[Event], None]


def discard(_: Event) -> None:
    """The sink of somebody who does not listen."""
