"""Keeps a worker's snapshot equal to the record: loads it, follows the history, and knows when not to trust it.

The stream is the history itself. Changes are made one after the other, under the record's lock, and are numbered in it:
so a change that can be seen is one before which nothing more can appear. Numbers may be missing (a transaction that was
rolled back, a server that crashed), so that a gap between them says nothing. What a follower checks is that the change
it came to is still there, the same number with the same time; then everything after it, read in one statement, is
complete. If it is not there, the record was replaced by another (restored, promoted, made anew), and is loaded again.

NOTIFY, which PostgreSQL delivers with the commit, only wakes; nothing is taken from it, and once in BEAT seconds the
record is asked anyway. (A Redis stream would be a second thing to write after the commit, and may lose it in a
failover.)

The question for changes also reports how far this worker is, and takes a lease: until when its snapshot may decide
without another report. What was read is trusted until the end of the lease that was reported BEFORE it was read. So
whoever commits a change, looks at the reports and finds no lease of a worker that lacks it, knows that no snapshot
without it decides: the worker has it, or asks the cluster, or has yet to read.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import random
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import psycopg
from psycopg.rows import DictRow

from services.common.connections import cut
from services.fds.blacklist import statements
from services.fds.blacklist.connection import Connection, connect, fetch
from services.fds.blacklist.entries import Kind, Target
from services.fds.blacklist.record import entry_of_json, entry_of_row
from services.fds.blacklist.snapshot import Snapshot

BEAT = 1.0
"""Seconds at most between two questions for changes."""
LEASE = 3.0
"""Seconds for which a report allows the snapshot to be used: two beats may be lost."""
REPLY_SECONDS = 2.0
"""Seconds for one answer of the record; a server that is frozen never gives any."""
LOAD_SECONDS = 120.0
PAUSES = (0.05, 2.0)
"""Seconds before the first and before every later attempt to connect: doubled each time, and scattered."""
PAGE = 200
"""Rows that are taken in at once: two milliseconds, for which decisions have to wait."""
FORGET = dt.timedelta(hours=1)
"""How long a worker that ended without a word is still shown."""

FAULTS = (psycopg.Error, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Following:
    """How far a worker is. `age`: seconds since it knew its snapshot to be complete, None: never; `problem` says what
    keeps it from following, and is empty while nothing does."""

    worker: str
    sequence: int
    entries: int
    age: float | None
    trusted: bool
    problem: str


class Follower:
    """Follows the record in a task of its own, from `async with` on until its end.

    `conninfo` is that of the primary: a replica knows no NOTIFY. Lost connections are made again, without end.
    """

    def __init__(self, conninfo: str, worker: str = "") -> None:
        self._conninfo = conninfo
        self.worker = worker or f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._snapshot: Snapshot | None = None
        self._sequence = 0
        self._at: dt.datetime | None = None
        self._lease_until = self._trusted_until = self._heard = float("-inf")
        self._problem = "not connected yet"
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._connection: Connection | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"blacklist follower {self.worker}")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._trusted_until = float("-inf")
        if self._task is not None:
            if self._connection is not None:
                cut(self._connection)  # or else psycopg asks the server to cancel, and waits for its answer
                await asyncio.wait([self._task], timeout=PAUSES[0])
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(*FAULTS):  # without a word, the lease ends by itself
            async with await connect(self._conninfo) as connection:
                with _within(REPLY_SECONDS, connection):
                    await self._leave(connection)

    @property
    def snapshot(self) -> Snapshot | None:
        """The snapshot, if decisions may rely on it now: not to be kept for later."""
        return self._snapshot if time.monotonic() < self._trusted_until else None

    @property
    def following(self) -> Following:
        """How far it is, for health and metrics."""
        age = time.monotonic() - self._heard
        trusted = self.snapshot is not None
        return Following(
            worker=self.worker,
            sequence=self._sequence,
            entries=0 if self._snapshot is None else len(self._snapshot),
            age=None if age == float("inf") else age,
            trusted=trusted,
            problem=self._problem or ("" if trusted else "it is still catching up with the record"),
        )

    async def ready(self, seconds: float) -> bool:
        """Wait until the snapshot can be used; False if that took more than `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.snapshot is None:
                    self._told.clear()
                    await self._told.wait()
        return self.snapshot is not None

    async def _run(self) -> None:
        pause, longest = PAUSES
        while True:
            try:
                async with await connect(self._conninfo) as connection:
                    self._connection = connection
                    await self._prepare(connection)
                    while True:
                        changed = await self._ask(connection)
                        pause = PAUSES[0]
                        if not changed and self.snapshot is not None:
                            await self._rest(connection)
            except FAULTS as error:
                self._problem = str(error).strip().partition("\n")[0] or "the record does not answer"
            self._connection = None
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  # scatters workers that start together
            pause = min(pause * 2, longest)

    async def _prepare(self, connection: Connection) -> None:
        with _within(REPLY_SECONDS, connection):
            await connection.execute("SET synchronous_commit = local")  # a report waits for no replica
            await connection.execute(statements.LISTEN)
            if self._snapshot is None:
                await self._leave(connection)  # sweeps out who is long gone

    async def _ask(self, connection: Connection) -> bool:
        """Report, and take in the next page of changes. Returns whether there were any."""
        lease_until, sent = self._lease_until, time.monotonic()
        with _within(REPLY_SECONDS, connection):
            rows = await fetch(
                connection,
                statements.FOLLOW,
                {
                    "worker": self.worker,
                    "sequence": self._sequence,
                    "at": self._at,
                    "lease": dt.timedelta(seconds=LEASE),
                    "limit": PAGE,
                },
            )
        if self._snapshot is None or not self._continues(self._snapshot, rows):
            await self._load(connection)
            return True
        later = rows[1:] if self._sequence else rows
        for row in later:
            _apply(self._snapshot, row)
        if later:
            self._sequence, self._at = later[-1]["id"], later[-1]["at"]
        self._lease_until = sent + LEASE
        if len(rows) < PAGE:
            self._trusted_until, self._heard, self._problem = lease_until, sent, ""
            self._told.set()
        return bool(later)

    def _continues(self, snapshot: Snapshot, rows: list[DictRow]) -> bool:
        """Whether the record is still the one that the snapshot comes from."""
        if self._at is None:
            return len(snapshot) == 0 or not rows  # from nothing, any history leads to what is listed at its end
        return bool(rows) and (rows[0]["id"], rows[0]["at"]) == (self._sequence, self._at)

    async def _load(self, connection: Connection) -> None:
        """Replace the snapshot by what the record has: entries and the last change's number as of the same moment."""
        self._snapshot, self._sequence, self._at = None, 0, None
        self._lease_until = self._trusted_until = float("-inf")
        loaded = Snapshot()
        with _within(LOAD_SECONDS, connection):
            async with connection.transaction():
                await connection.execute(statements.CONSISTENT)
                last = await fetch(connection, statements.LAST, {})
                async with connection.cursor("snapshot") as cursor:
                    cursor.itersize = PAGE
                    await cursor.execute(statements.ALL)
                    async for row in cursor:
                        loaded.put(entry_of_row(row))
        if last:
            self._sequence, self._at = last[0]["id"], last[0]["at"]
        self._snapshot = loaded

    async def _rest(self, connection: Connection) -> None:
        """Until a change is committed, or for a beat."""
        async for _ in connection.notifies(timeout=BEAT, stop_after=1):
            pass

    async def _leave(self, connection: Connection) -> None:
        await connection.execute(statements.LEAVE, {"worker": self.worker, "forget": FORGET})


@contextlib.contextmanager
def _within(seconds: float, connection: Connection) -> Iterator[None]:
    """Cut the connection off after `seconds`: a server that is frozen would not let go of it otherwise."""
    deadline = asyncio.get_running_loop().call_later(seconds, cut, connection)
    try:
        yield
    finally:
        deadline.cancel()


def _apply(snapshot: Snapshot, row: DictRow) -> None:
    target = Target(Kind(row["kind"]), row["value"])
    entry = entry_of_json(target, row["after"])
    if entry is None:
        snapshot.remove(target)
    else:
        snapshot.put(entry)
