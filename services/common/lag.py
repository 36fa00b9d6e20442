"""The background judge: which server answers, and whether the replica is near enough to the primary to be read from."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from services.common.connections import Connection, Server, cut
from services.common.outages import first_line
from services.common.replication import heartbeat_lag

_log = logging.getLogger(__name__)

_STATE = """
SELECT pg_is_in_recovery() AS in_recovery, clock_timestamp() AS now,
       pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint AS replayed
"""
_HEARTBEAT = "SELECT at FROM ops.heartbeat"
_NO_HEARTBEAT = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InsufficientPrivilege,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said of itself. `heartbeat`: when its heartbeat row was written; None where there is none."""

    in_recovery: bool
    now: dt.datetime
    heartbeat: dt.datetime | None


class Watch:
    """Asks one server, on a connection of its own: no pool that is exhausted can make the server look lost."""

    def __init__(self, server: Server, *, in_recovery: bool, timeout: float) -> None:
        """`in_recovery`: what the server has to be. `timeout`: seconds it has for an answer."""
        self.server = server
        self.answer: Answer | None = None
        """The last one; None while the server is lost."""
        self._in_recovery = in_recovery
        self._timeout = timeout
        self._connection: Connection | None = None

    async def look(self) -> None:
        """Ask the server, and judge it lost or found. Never raises for what the server does."""
        try:
            answer = await self._ask()
            if answer.in_recovery != self._in_recovery:
                raise psycopg.OperationalError(
                    f"the {self.server.name} is {'' if answer.in_recovery else 'not '}in recovery"
                )
        except Exception as error:  # a watch that ended would leave its last judgement standing for ever
            if not isinstance(error, psycopg.Error):
                _log.exception("the %s cannot be judged", self.server.name)
            self.answer = None
            await self.aclose()
            await self.server.lose(first_line(error))
        else:
            self.answer = answer
            self.server.find()

    async def aclose(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _ask(self) -> Answer:
        """Twice if need be: a connection may be lost and its server well."""
        if self.server.doubted.is_set():
            # Somebody could not connect. A server that takes no new connections may still serve the old ones.
            self.server.doubted.clear()
            await self.aclose()
        if self._connection is not None:
            try:
                return await self._asked(self._connection)
            except psycopg.OperationalError:
                await self.aclose()
                await self.server.renew()
        self._connection = await self.server.dial({"timezone": "UTC"}, autocommit=True)
        return await self._asked(self._connection)

    async def _asked(self, connection: Connection) -> Answer:
        opened = self.server.opened
        # The server's own statement_timeout does not help against a server that is frozen.
        deadline = asyncio.get_running_loop().call_later(self._timeout, cut, connection)
        try:
            state = await _row(connection, _STATE)
            try:
                heartbeat = await _row(connection, _HEARTBEAT)
            except _NO_HEARTBEAT:
                heartbeat = {}
        finally:
            deadline.cancel()
        if state["replayed"] is not None:
            self.server.note_replayed(state["replayed"], opened)
        return Answer(state["in_recovery"], state["now"], heartbeat.get("at"))


async def _row(connection: Connection, query: str) -> dict[str, Any]:
    """The first row by column names; empty when there is none."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(query.encode())).fetchone() or {}


class Judge:
    """Watches both servers every `interval` seconds, and weighs whether reads go to the replica."""

    def __init__(
        self,
        primary: Server,
        replica: Server,
        *,
        interval: float,
        timeout: float,
        lag_limit: float,
        heartbeat_seconds: float,
    ) -> None:
        """`timeout`: seconds a server has for an answer, and again on a new connection. Others as in RoutingConfig."""
        self.unfit: str | None = "not judged yet"
        """Why reads do not go to the replica; None while they do."""
        self.lag_seconds: float | None = None
        """For how long the replica has owed a heartbeat; None when that cannot be known."""
        self._primary = Watch(primary, in_recovery=False, timeout=timeout)
        self._replica = Watch(replica, in_recovery=True, timeout=timeout)
        self._interval = interval
        self._limit = lag_limit
        self._beat = heartbeat_seconds
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        """Judge both once, then go on in the background."""
        watches = (self._primary, self._replica)
        await asyncio.gather(*(self._look(watch) for watch in watches))
        # A task for each: a server that is silent delays no judgement of the other one.
        self._tasks = [asyncio.create_task(self._keep_looking(watch), name=watch.server.name) for watch in watches]

    async def stop(self) -> None:
        """End the background tasks, after the look that is under way, and close their connections."""
        self._stopping = True
        for watch in (self._primary, self._replica):
            watch.server.doubted.set()
        await asyncio.gather(*self._tasks)
        await self._primary.aclose()
        await self._replica.aclose()

    async def _keep_looking(self, watch: Watch) -> None:
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await watch.server.doubted.wait()
            if not self._stopping:
                await self._look(watch)

    async def _look(self, watch: Watch) -> None:
        await watch.look()
        before, (self.lag_seconds, self.unfit) = self.unfit, self._weigh()
        if before is not None and self.unfit is None:
            _log.info("the replica is read from")
        elif before is None and self.unfit is not None:
            _log.warning("the replica is not read from: %s", self.unfit)

    def _weigh(self) -> tuple[float | None, str | None]:
        primary, replica = self._primary.answer, self._replica.answer
        if replica is None:
            return None, self._replica.server.lost
        if primary is None:
            return None, "its lag is unknown: the primary does not answer"
        lag = heartbeat_lag(replica.heartbeat, primary.heartbeat, primary.now, self._beat)
        if lag is None:
            return None, "its lag is unknown: there is no recent heartbeat"
        if lag > self._limit:
            return lag, f"it is {lag:.1f} s behind, over the limit of {self._limit:g} s"
        return lag, None
