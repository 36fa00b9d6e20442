"""Which worker enforces the blacklist up to which change, as their reports say; and waiting until all of them do.

The reports are in PostgreSQL, not in Redis: they are made by the very statement that asks for changes, so that whoever
hears of changes can report, whoever reports can hear, and nothing else has to be alive.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from dataclasses import dataclass

from services.fds.blacklist import statements
from services.fds.blacklist.record import Record

PAUSES = (0.005, 0.1)
"""Seconds between two looks at the reports: doubled each time, up to the second."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker's last report, judged by the record's clock."""

    worker: str
    sequence: int
    started_at: dt.datetime
    leased: bool
    """Whether its snapshot may decide. If not, it has ended, is cut off from the record, or is loading: if it decides
    at all, it asks the cluster."""
    silent: float
    """Seconds since the report."""
    changes: int
    """Changes that it lacks."""
    seconds: float
    """For how long it has lacked the first of them; 0 if it lacks none."""


@dataclass(frozen=True, slots=True)
class Enforcement:
    """Who enforces a change: the names of workers."""

    enforcing: tuple[str, ...]
    behind: tuple[str, ...]
    """Their snapshots may still decide without it."""
    silent: tuple[str, ...]
    """No snapshot of theirs decides: what they decide, if anything, the cluster says. So they enforce it if the copy
    has it."""
    seconds: float
    """How long the wait was."""

    @property
    def complete(self) -> bool:
        return not self.behind


async def workers(record: Record) -> list[Worker]:
    """All that reported within the last hour and did not take leave. Raises UnavailableError."""
    return [Worker(**row) for row in await record.read(statements.WORKERS, {})]


async def wait_until_enforced(record: Record, sequence: int, seconds: float) -> Enforcement:
    """Wait until no worker decides without the change `sequence`, at most for `seconds`; says who does then.

    A worker that was killed holds this up until its lease is over. Raises UnavailableError.
    """
    started = time.monotonic()
    pause, longest = PAUSES
    while True:
        rows = await record.read(statements.ENFORCED, {"sequence": sequence})
        waited = time.monotonic() - started
        done = Enforcement(
            enforcing=tuple(row["worker"] for row in rows if row["leased"] and row["enforces"]),
            behind=tuple(row["worker"] for row in rows if row["leased"] and not row["enforces"]),
            silent=tuple(row["worker"] for row in rows if not row["leased"]),
            seconds=waited,
        )
        if done.complete or waited >= seconds:
            return done
        await asyncio.sleep(min(pause, seconds - waited))
        pause = min(pause * 2, longest)
