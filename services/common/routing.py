"""Read/write routing: writes go to the primary, reads to the replica while it is near enough, and back by themselves.

The caller says which of both an operation is; no statement is ever looked into. Where reads go is judged in the
background (`lag`), so a request only looks at the judgement.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from services.common import outages
from services.common.causality import CURRENT_POSITION, REPLAYED_POSITION, UNKNOWN, position_of, token_of
from services.common.connections import Server
from services.common.lag import Judge
from services.common.outages import PrimaryUnavailableError, ReadsOverloadedError, ReadsUnavailableError

T = TypeVar("T")

REPLAY_POLL = 0.002
APPLICATION_NAME = "shopfds"


@dataclass(frozen=True, slots=True)
class RoutingConfig:
    """Sizes and patience. Times in seconds; connections are per process."""

    write_connections: int = 5
    read_connections: int = 5
    """On the replica, and again on the primary for the time that reads go there: they never take those of writes."""
    acquire_timeout: float = 3.0
    """How long a caller waits for a connection of the pool."""
    connect_timeout: float = 1.0
    write_timeout: float = 5.0
    """For one statement of a write, waits for locks included."""
    read_timeout: float = 5.0
    transaction_idle_timeout: float = 10.0
    """For how long a write may hold its locks without doing anything."""
    lag_limit: float = 10.0
    """Replay lag over which the replica is not read from."""
    heartbeat_seconds: float = 1.0
    """How often the primary's heartbeat row is written."""
    judge_interval: float = 0.5
    judge_timeout: float = 0.75
    """How long a server may be silent to the judge, before it is asked once more on a new connection."""
    replay_wait: float = 0.02
    """How long a session's read waits for the replica to replay the session's own write. Measured on two busy cores, 95
    of 100 writes are replayed within 12 ms: without a wait most reads after a write would go to the primary."""
    retry_after: int = 5
    """What callers are told when a server is down: that long it takes to come back."""

    def __post_init__(self) -> None:
        if self.acquire_timeout <= self.detection:
            raise ValueError(
                f"acquire_timeout must be over {self.detection:g} s, in which the judge finds a frozen server:"
                " else its callers fail, instead of going on elsewhere"
            )

    @property
    def detection(self) -> float:
        """After how many seconds at most a server that froze is lost: the next look, and both its questions."""
        return self.judge_interval + self.judge_timeout + max(self.judge_timeout, self.connect_timeout)


@dataclass(slots=True)
class Counters:
    """What was done since the process began, by the server that did it."""

    replica_reads: int = 0
    primary_reads: int = 0
    passed_reads: int = 0
    """Those that one server could not answer, or not yet, so that the other one was asked."""
    failed_reads: int = 0
    writes: int = 0
    failed_writes: int = 0
    """Those that raised PrimaryUnavailableError."""

    @property
    def replica_share(self) -> float | None:
        """The part of the reads that the replica answered, 0 to 1; None before the first one."""
        reads = self.replica_reads + self.primary_reads
        return self.replica_reads / reads if reads else None


class WriteSession(AsyncSession):
    """A session on the primary."""

    token: str | None = None
    """Of the transaction, once it is committed: see `Databases.read`."""


class Databases:
    """The primary and its replica, behind bounded pools. Use as an asynchronous context manager.

        async with Databases(primary, replica) as databases:
            async with databases.write() as session:
                session.add(order)
            async with databases.read(after=session.token) as session: ...
            orders = await databases.reading(partial(orders_of, user), after=session.token)

    No call waits without a bound: for a connection `acquire_timeout`, for a statement `read_timeout` or
    `write_timeout`, for a server that froze `RoutingConfig.detection`.
    """

    def __init__(self, primary: str, replica: str, config: RoutingConfig | None = None) -> None:
        """`primary`, `replica`: libpq connection strings of the role that the service works as."""
        self.config = config = config or RoutingConfig()
        self.counters = Counters()
        self._primary = Server("primary", primary, connect_timeout=config.connect_timeout)
        self._replica = Server("replica", replica, connect_timeout=config.connect_timeout)
        self.judge = Judge(
            self._primary,
            self._replica,
            interval=config.judge_interval,
            timeout=config.judge_timeout,
            lag_limit=config.lag_limit,
            heartbeat_seconds=config.heartbeat_seconds,
        )
        common = {"timezone": "UTC", "application_name": APPLICATION_NAME}
        writing = common | {
            "statement_timeout": _milliseconds(config.write_timeout),
            "idle_in_transaction_session_timeout": _milliseconds(config.transaction_idle_timeout),
        }
        # On the primary, too, a read that writes is refused. Reads are not wrapped in transactions: each statement has
        # its own snapshot all the same, and takes one round trip instead of three.
        reading = common | {
            "statement_timeout": _milliseconds(config.read_timeout),
            "default_transaction_read_only": "on",
        }
        self._writes = self._primary.pool(config.write_connections, config.acquire_timeout, writing)
        self._reads = {
            server: server.pool(config.read_connections, config.acquire_timeout, reading, isolation_level="AUTOCOMMIT")
            for server in (self._replica, self._primary)
        }

    async def open(self) -> None:
        """Judge both servers, then go on judging in the background. Does not fail when they are down."""
        await self.judge.start()

    async def close(self) -> None:
        """Stop judging, and close the connections."""
        await self.judge.stop()
        await self._replica.aclose()
        await self._primary.aclose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- writes --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def write(self) -> AsyncIterator[WriteSession]:
        """A transaction on the primary: committed at the end, rolled back by any error. Never tried again by us.

        Afterwards `session.token` lets reads of the same user see it. Keep it where the user cannot change it: a
        made-up one sends reads to the primary.
        Raises PrimaryUnavailableError when the primary is down, is lost on the way, has no connection free or does not
        answer in time. Then nothing was done; or, where `in_doubt` says so, nobody knows.
        """
        committing = False
        try:
            _refuse_lost(self._primary)
            async with self._writes.connect() as connection:
                async with WriteSession(bind=connection, expire_on_commit=False) as session:
                    yield session
                    await session.flush()
                    committing = True
                    await session.commit()
                    committing = False
                session.token = await self._position(connection)
        except (SQLAlchemyError, psycopg.Error) as error:
            lost = outages.is_lost(error)
            if lost or outages.is_read_only(error):
                self._primary.doubt()
            elif not (outages.is_overload(error) or outages.is_too_long(error)):
                raise
            self.counters.failed_writes += 1
            raise PrimaryUnavailableError(
                f"the primary did not take the write: {outages.first_line(error)}",
                retry_after=self.config.retry_after,
                in_doubt=committing and lost,
            ) from error
        self.counters.writes += 1

    async def _position(self, connection: AsyncConnection) -> str:
        """The token of what this connection has just committed. What went wrong here did not undo the commit."""
        try:
            await connection.execution_options(isolation_level="AUTOCOMMIT")  # one round trip instead of three
            return token_of((await connection.execute(text(CURRENT_POSITION))).scalar_one())
        except (SQLAlchemyError, psycopg.Error):
            self._primary.doubt()
            return UNKNOWN

    # -- reads ---------------------------------------------------------------------------------------------------

    async def reading(self, work: Callable[[AsyncSession], Awaitable[T]], *, after: str | None = None) -> T:
        """What `work` returns, given a session for reads. `after`: as in `read`.

        When the server that `work` reads from is lost, or the replica cancels the read because of a recovery conflict,
        `work` is called once more, with a session on the other server. So it has to be safe to repeat: it reads, and
        returns what it read.
        Raises ReadsUnavailableError when neither server answers, InvalidTokenError; and what `work` raises.
        """
        position = position_of(after) if after else 0
        first, second = self._order()
        try:
            return await self._worked(first, position, work)
        except ReadsOverloadedError:
            self.counters.failed_reads += 1
            raise
        except ReadsUnavailableError:
            self.counters.passed_reads += 1
        try:
            return await self._worked(second, position, work)
        except ReadsUnavailableError:
            self.counters.failed_reads += 1
            raise

    @asynccontextmanager
    async def read(self, *, after: str | None = None) -> AsyncIterator[AsyncSession]:
        """A session for reads: on the replica while it is fit for it, else on the primary.

        `after`: the token of a write that the read has to see (`WriteSession.token`). The replica serves it once it has
        replayed that write; if that takes longer than `replay_wait`, the primary does.
        A server that cannot be reached is passed over. But what is lost after that cannot be repeated, since a block of
        code runs only once: use `reading` wherever the read can be a function, and this where it cannot (streams).
        Raises ReadsUnavailableError, InvalidTokenError.
        """
        position = position_of(after) if after else 0
        first, second = self._order()
        try:
            async with AsyncExitStack() as stack:
                try:
                    session = await stack.enter_async_context(self._session(first, position))
                except ReadsOverloadedError:
                    raise
                except ReadsUnavailableError:
                    self.counters.passed_reads += 1
                    session = await stack.enter_async_context(self._session(second, position))
                yield session
        except ReadsUnavailableError:
            self.counters.failed_reads += 1
            raise

    def _order(self) -> tuple[Server, Server]:
        """Where to read, and where else. Without a primary, the replica serves however far it is behind."""
        if self.judge.unfit is None or self._primary.lost is not None:
            return self._replica, self._primary
        return self._primary, self._replica

    async def _worked(self, server: Server, position: int, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        async with self._session(server, position) as session:
            return await work(session)

    @asynccontextmanager
    async def _session(self, server: Server, position: int) -> AsyncIterator[AsyncSession]:
        """A session on this server, which shows at least `position`. Raises ReadsUnavailableError if it does not."""
        try:
            _refuse_lost(server)
            async with self._reads[server].connect() as connection:
                if server is self._replica and not await self._replayed(connection, position):
                    raise ReadsUnavailableError(
                        "the replica has not replayed the session's write", retry_after=self.config.retry_after
                    )
                async with AsyncSession(bind=connection, autoflush=False, expire_on_commit=False) as session:
                    yield session
        except (SQLAlchemyError, psycopg.Error) as error:
            said = f"the {server.name} did not answer the read: {outages.first_line(error)}"
            if outages.is_overload(error) or outages.is_too_long(error):
                raise ReadsOverloadedError(said, retry_after=self.config.retry_after) from error
            if outages.is_lost(error):
                server.doubt()
            elif not (server is self._replica and outages.is_recovery_conflict(error)):
                raise
            raise ReadsUnavailableError(said, retry_after=self.config.retry_after) from error
        if server is self._replica:
            self.counters.replica_reads += 1
        else:
            self.counters.primary_reads += 1

    async def _replayed(self, connection: AsyncConnection, position: int) -> bool:
        """Whether the replica, of which this is a connection, shows `position` by now, or soon enough."""
        if self._replica.replayed >= position:
            return True
        loop = asyncio.get_running_loop()
        end = loop.time() + self.config.replay_wait
        while True:
            opened = self._replica.opened
            replayed = (await connection.execute(text(REPLAYED_POSITION))).scalar_one()
            self._replica.note_replayed(replayed, opened)
            if replayed >= position or loop.time() >= end:
                return bool(replayed >= position)
            await asyncio.sleep(REPLAY_POLL)


def _refuse_lost(server: Server) -> None:
    """Raises what a connection attempt would, without one."""
    if server.lost is not None:
        raise psycopg.OperationalError(server.lost)


def _milliseconds(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
