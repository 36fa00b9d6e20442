"""A connection to the PostgreSQL that has the record, and what is said when it refuses or cannot be reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from services.fds.blacklist.errors import UnavailableError

Connection = psycopg.AsyncConnection[DictRow]

LOCK_SECONDS = 30
CONNECT_SECONDS = 3


class explained:  # noqa: N801  # used like a function
    """Turns what psycopg raises into one line and a remedy: an UnavailableError."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, psycopg.Error):
            return
        line = str(error).strip().partition("\n")[0]
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
            raise UnavailableError("the blacklist's tables do not exist", remedy="run `shopfds migrate`") from error
        if isinstance(error, psycopg.errors.LockNotAvailable):
            raise UnavailableError(
                f"another change of the blacklist has been under way for {LOCK_SECONDS} s", remedy="try again"
            ) from error
        raise UnavailableError(
            f"the blacklist's record in PostgreSQL does not answer: {line}", remedy="see `shopfds status postgres`"
        ) from error


async def connect(conninfo: str) -> Connection:
    """A new connection: autocommit, UTC, rows as dicts. Raises psycopg.Error."""
    return await psycopg.AsyncConnection.connect(
        conninfo,
        autocommit=True,
        row_factory=dict_row,
        connect_timeout=CONNECT_SECONDS,
        options=f"-c timezone=UTC -c lock_timeout={LOCK_SECONDS}s -c application_name=shopfds-blacklist",
    )


async def fetch(connection: Connection, query: str, parameters: Mapping[str, Any]) -> list[DictRow]:
    """All rows of one of the `statements`. Raises psycopg.Error."""
    cursor = await connection.execute(query.encode(), parameters)
    return await cursor.fetchall()
