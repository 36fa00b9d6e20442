"""One PostgreSQL server and all our connections to it: pooled, bounded, and cut off at once when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import weakref
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

_log = logging.getLogger(__name__)

Connection = psycopg.AsyncConnection[tuple[object, ...]]


class Server:
    """A server under its `name`, which is lost or not. Whether it is, somebody else judges: see `lose` and `find`."""

    def __init__(self, name: str, conninfo: str, *, connect_timeout: float) -> None:
        """`conninfo`: libpq connection string. `connect_timeout`: seconds until a silent server counts as down."""
        self.name = name
        self.lost: str | None = None
        """Why the server is not asked; None while it is."""
        self.doubted = asyncio.Event()
        """Set by `doubt`: a reason to judge the server now."""
        self._conninfo = conninfo
        self._timeout = connect_timeout
        self._engines: list[AsyncEngine] = []
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._opened = 0
        self._replayed = 0

    # -- connections ---------------------------------------------------------------------------------------------

    def pool(self, size: int, acquire_timeout: float, settings: Mapping[str, str | int], **options: str) -> AsyncEngine:
        """A pool of at most `size` connections, for which a caller waits `acquire_timeout` seconds at most.

        `settings`: run-time parameters of its sessions. `options`: further ones of SQLAlchemy's engine.
        """

        async def connect() -> Connection:
            if self.lost is not None:
                raise psycopg.OperationalError(self.lost)
            try:
                return await self.dial(settings)
            except psycopg.OperationalError:
                self.doubt()
                raise

        engine = create_async_engine(
            "postgresql+psycopg://",
            async_creator=connect,
            pool_size=size,
            max_overflow=0,
            pool_timeout=acquire_timeout,
            **options,
        )
        self._engines.append(engine)
        return engine

    async def dial(self, settings: Mapping[str, str | int], *, autocommit: bool = False) -> Connection:
        """A new connection, outside of any pool. Raises psycopg.OperationalError, at the latest after the timeout."""
        given = [str(conninfo_to_dict(self._conninfo).get("options") or "")]
        options = " ".join(filter(None, given + [f"-c {name}={value}" for name, value in settings.items()]))
        try:
            async with asyncio.timeout(self._timeout):  # psycopg's own is never under 2 s
                connection = await psycopg.AsyncConnection.connect(
                    make_conninfo(self._conninfo, options=options), autocommit=autocommit
                )
        except TimeoutError:
            raise psycopg.OperationalError(f"the {self.name} does not answer within {self._timeout:g} s") from None
        self._connections.add(connection)
        # The server may have been restarted since it was last asked, and then shows an older state for a moment:
        # a replica that crashed is open as soon as it is consistent, before it has replayed all it once had.
        self._opened += 1
        self._replayed = 0
        return connection

    async def renew(self) -> None:
        """Drop the idle connections, because the server was restarted."""
        for engine in self._engines:
            await engine.dispose()

    async def aclose(self) -> None:
        """Close the pools. What is still at work in them closes its connection itself."""
        await self.renew()

    # -- lost and found ------------------------------------------------------------------------------------------

    def doubt(self) -> None:
        """A connection failed. Of a server that is lost, that is no news."""
        if self.lost is None:
            self.doubted.set()

    async def lose(self, why: str) -> None:
        """From now on the server is not asked, and whoever waits for its answer gets a lost connection instead."""
        if self.lost is None:
            _log.warning("the %s is lost: %s", self.name, why)
        self.lost = why
        # Cancelling the waiting tasks would not do: psycopg then asks the server to cancel, and waits for its answer.
        for connection in list(self._connections):
            cut(connection)
        await self.renew()

    def find(self) -> None:
        """The server is asked again."""
        if self.lost is not None:
            _log.info("the %s is back", self.name)
        self.lost = None

    # -- what the replica has replayed ---------------------------------------------------------------------------

    @property
    def opened(self) -> int:
        """How many connections were made: what was asked before a new one says nothing to it."""
        return self._opened

    @property
    def replayed(self) -> int:
        """The position up to which the replica has replayed for certain; 0 while nothing is known."""
        return self._replayed

    def note_replayed(self, position: int, opened: int) -> None:
        """The replica said so, when `opened` connections had been made."""
        if opened == self._opened:
            self._replayed = max(self._replayed, position)


def cut(connection: psycopg.AsyncConnection[Any]) -> None:
    """Break the connection off, as if the server had: whoever waits on it gets psycopg.OperationalError now."""
    if connection.closed:
        return
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as twin:
        twin.shutdown(socket.SHUT_RDWR)
