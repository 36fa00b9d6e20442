"""The record of the blacklist in PostgreSQL: what is listed, the history of changes, and what the copy may lack."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.rows import DictRow

from services.fds.blacklist import statements
from services.fds.blacklist.connection import Connection, connect, explained, fetch
from services.fds.blacklist.entries import Entry, Kind, Proposal, Target

Action = Literal["added", "extended", "replaced", "unchanged", "ttl", "removed", "expired"]
LOCK = 0x5348_4F50_4644_5301
"""The advisory lock that orders changes: whoever holds it may commit a change and then apply it to the copy."""
SWEEPER = "shopfds"
"""The actor of changes that time makes."""
PAGE = 2000


@dataclass(frozen=True, slots=True)
class Change:
    """What a change did to one value. An unchanged entry is its own before and after."""

    target: Target
    action: Action
    before: Entry | None
    after: Entry | None


@dataclass(frozen=True, slots=True)
class Revision:
    """A line of the history. `before` and `after` are the entry's columns then, as JSON; None where there was none."""

    target: Target
    action: Action
    at: dt.datetime
    actor: str
    reason: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Page:
    """Active entries, newest first, and how many match in all."""

    entries: tuple[Entry, ...]
    total: int


class Record:
    """Reads on one connection, changes on another that holds the lock; both made when they are needed.

    Every method raises UnavailableError where PostgreSQL refuses or cannot be reached.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._reader: Connection | None = None
        self._reading = asyncio.Lock()
        self._writer: Connection | None = None
        self._writing = asyncio.Lock()

    async def aclose(self) -> None:
        """Close both connections."""
        for connection in (self._reader, self._writer):
            if connection is not None:
                await connection.close()

    async def find(self, targets: Collection[Target]) -> list[Entry]:
        """The active entries among exactly these targets."""
        return [entry_of_row(row) for row in await self.read(statements.FIND, _arrays(targets))]

    async def page(
        self, *, kind: Kind | None = None, text: str | None = None, expiring: dt.datetime | None = None, limit: int
    ) -> Page:
        """Active entries of a kind, with `text` in value or reason, that expire until `expiring`."""
        rows = await self.read(
            statements.LIST,
            {"kind": kind, "text": text.lower() if text else None, "expiring": expiring, "limit": limit},
        )
        total = rows[0]["total"] if rows else 0
        return Page(tuple(entry_of_row(row) for row in rows), total)

    async def history(self, targets: Sequence[Target] = (), *, limit: int) -> list[Revision]:
        """Changes of these targets (of all, if none is named), newest first."""
        arrays = _arrays(targets) if targets else {"kinds": None, "values": None}
        rows = await self.read(statements.HISTORY, {**arrays, "limit": limit})
        return [
            Revision(
                target=Target(Kind(row["kind"]), row["value"]),
                **{name: row[name] for name in ("action", "at", "actor", "reason", "before", "after")},
            )
            for row in rows
        ]

    async def count(self) -> int:
        """How many entries are active."""
        return int((await self.read(statements.COUNT, {}))[0]["entries"])

    async def waiting(self) -> int:
        """How many changes the copy may lack."""
        return int((await self.read(statements.WAITING, {}))[0]["changes"])

    async def all(self) -> AsyncIterator[Entry]:
        """Every active entry, oldest first, as of one moment; read in pages on a connection of its own."""
        with explained():
            async with (
                await connect(self._conninfo) as connection,
                connection.transaction(),
                connection.cursor("blacklist") as cursor,
            ):
                cursor.itersize = PAGE
                await cursor.execute(statements.ALL)
                async for row in cursor:
                    yield entry_of_row(row)

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[Changing]:
        """The right to change the record and the copy: one holder at a time, in all processes.

        Without it, two changes of one entry could be committed in one order and applied in the other.
        """
        async with self._writing:
            with explained():
                if self._writer is None or self._writer.closed:
                    self._writer = await connect(self._conninfo)
                try:
                    await self._writer.execute(statements.LOCK, {"lock": LOCK})
                except psycopg.OperationalError as error:
                    if isinstance(error, psycopg.errors.LockNotAvailable):
                        raise
                    await self._writer.close()  # an idle connection that the server's restart cut off
                    self._writer = await connect(self._conninfo)
                    await self._writer.execute(statements.LOCK, {"lock": LOCK})
            writer = self._writer
            try:
                yield Changing(writer)
            finally:
                try:
                    await writer.execute(statements.UNLOCK, {"lock": LOCK})
                except psycopg.Error:
                    await writer.close()  # the lock goes with its connection

    async def read(self, query: str, parameters: Mapping[str, Any]) -> list[DictRow]:
        """The rows of one of the `statements` that changes nothing; repeated once if the connection was cut off."""
        async with self._reading:
            with explained():
                if self._reader is not None and not self._reader.closed:
                    try:
                        return await fetch(self._reader, query, parameters)
                    except psycopg.OperationalError:
                        await self._reader.close()  # cut off; a new connection may do
                self._reader = await connect(self._conninfo)
                return await fetch(self._reader, query, parameters)


class Changing:
    """Changes of the record, by whoever holds the lock. Each method but `settled` is to be called in `transaction`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """All or nothing. Expired entries are swept first, so that nobody extends what is over.

        Whoever follows the changes is woken by the commit.
        """
        with explained():
            async with self._connection.transaction():
                await self._connection.execute(statements.SWEEP, {"actor": SWEEPER})
                yield
                await self._connection.execute(statements.NOTIFY)

    async def propose(self, proposals: Sequence[Proposal], actor: str, *, replace: bool) -> list[Change]:
        """List these values. Of one that is listed already the longer life wins, or with `replace` the new one."""
        return await self._changes(statements.PROPOSE, _columns(proposals, actor, replace))

    async def propose_many(self, proposals: Sequence[Proposal], actor: str, *, replace: bool) -> dict[Action, int]:
        """As `propose`, but tells only how many of each action."""
        with explained():
            rows = await fetch(self._connection, statements.PROPOSE_MANY, _columns(proposals, actor, replace))
        return {row["action"]: row["entries"] for row in rows}

    async def remove(self, targets: Sequence[Target], actor: str, reason: str) -> list[Change]:
        """Take active entries off; those that are not listed are left out of the answer."""
        return await self._changes(statements.REMOVE, {**_arrays(targets), "actor": actor, "reason": reason})

    async def set_expiry(
        self, targets: Sequence[Target], expires_at: dt.datetime | None, actor: str, reason: str
    ) -> list[Change]:
        """Set the end of active entries; those that are not listed are left out of the answer."""
        return await self._changes(
            statements.SET_EXPIRY, {**_arrays(targets), "expires_at": expires_at, "actor": actor, "reason": reason}
        )

    async def sequence(self) -> int:
        """The number of the last change, this transaction's own among them; 0 where there was none ever."""
        with explained():
            rows = await fetch(self._connection, statements.LAST, {})
        return int(rows[0]["id"]) if rows else 0

    async def unapplied(self) -> list[tuple[Target, Entry | None]]:
        """The values whose last change the copy may lack, with the entry as it is now (None: not listed)."""
        with explained():
            rows = await fetch(self._connection, statements.UNAPPLIED, {})
        return [
            (Target(Kind(row["kind"]), row["value"]), entry_of_row(row) if row["created_at"] is not None else None)
            for row in rows
        ]

    async def settled(self) -> None:
        """The copy has everything up to now: since we hold the lock, nobody else can have changed anything."""
        with explained():
            await self._connection.execute(statements.APPLIED)

    async def _changes(self, query: str, parameters: Mapping[str, Any]) -> list[Change]:
        with explained():
            rows = await fetch(self._connection, query, parameters)
        changes: list[Change] = []
        for row in rows:
            target = Target(Kind(row["kind"]), row["value"])
            before, after = (entry_of_json(target, row[name]) for name in ("before", "after"))
            changes.append(Change(target, row["action"], before, after))
        return changes


def _arrays(targets: Collection[Target]) -> dict[str, Any]:
    ordered = list(targets)
    return {"kinds": [str(target.kind) for target in ordered], "values": [target.value for target in ordered]}


def _columns(proposals: Sequence[Proposal], actor: str, replace: bool) -> dict[str, Any]:
    return {
        **_arrays([proposal.target for proposal in proposals]),
        "reasons": [proposal.reason for proposal in proposals],
        "expiries": [proposal.expires_at for proposal in proposals],
        "actor": actor,
        "replace": replace,
    }


def entry_of_row(row: Mapping[str, Any]) -> Entry:
    """The entry in a row of `statements.COLUMNS`."""
    return Entry(
        target=Target(Kind(row["kind"]), row["value"]),
        reason=row["reason"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )


def entry_of_json(target: Target, said: Mapping[str, Any] | None) -> Entry | None:
    """The entry in a line of the history; None where there was none."""
    if said is None:
        return None
    expires = said["expires_at"]
    return Entry(
        target=target,
        reason=said["reason"],
        created_by=said["created_by"],
        created_at=dt.datetime.fromisoformat(said["created_at"]),
        expires_at=None if expires is None else dt.datetime.fromisoformat(expires),
    )
