"""Connections of commands to the stack's PostgreSQL: errors an operator can act on, and locks between commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from shopfds_ops.errors import DataError, NotRunningError

MIGRATION_LOCK = 0x53484F5046445303
SEED_LOCK = 0x53484F5046445302
"""Advisory lock keys ("SHOPFDS" and a number): one command of a kind at a time per database. 1 is the blacklist's."""

CONNECT_TIMEOUT = 10
LOCK_TIMEOUT = 30


@contextmanager
def connect(conninfo: str, *, autocommit: bool = True) -> Iterator[psycopg.Connection]:
    """A connection in UTC; closed at the end, also after an error (an open transaction is rolled back).

    Raises NotRunningError when nothing answers or the password is refused, DataError for what the server refuses.
    """
    try:
        connection = psycopg.connect(
            conninfo, autocommit=autocommit, connect_timeout=CONNECT_TIMEOUT, options="-c timezone=UTC"
        )
    except psycopg.Error as error:
        raise NotRunningError(
            f"the database does not let us in: {first_line(error)}",
            remedy="see `shopfds status postgres`; `shopfds up` starts it",
        ) from None
    try:
        with translated():
            yield connection
    finally:
        connection.close()


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the server says into one line for the operator, with the remedy where there is one."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise DataError(
            f"the database lacks its tables: {first_line(error)}", remedy="run `shopfds migrate` first"
        ) from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise DataError(
            f"this server is a replica: {first_line(error)}", remedy="writes go to the primary: see `shopfds status`"
        ) from error
    except psycopg.errors.DiskFull as error:
        raise DataError(f"the disk is full: {first_line(error)}", remedy="free space, then run it again") from error
    except psycopg.errors.LockNotAvailable as error:
        raise DataError(
            f"somebody else is using the tables: {first_line(error)}",
            remedy="wait until they are done (`SELECT * FROM pg_stat_activity` shows who), then run it again",
        ) from error
    except psycopg.Error as error:
        if _connection_lost(error):
            raise DataError(
                f"the database went away: {first_line(error)}",
                remedy="see `shopfds status postgres`; when it is up, run the command again: it goes on where it was",
            ) from error
        raise DataError(f"the database refused: {first_line(error)}") from error


def _connection_lost(error: psycopg.Error) -> bool:
    """No code: the client noticed. Classes 08 and 57P: the server said so."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate.startswith(("08", "57P"))


@contextmanager
def exclusive(connection: psycopg.Connection, key: int, what: str) -> Iterator[None]:
    """Hold the advisory lock `key` on this session; waits LOCK_TIMEOUT seconds for another holder.

    The server frees it when the session ends, so a killed command never leaves it behind.
    """
    connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}s'")
    try:
        connection.execute("SELECT pg_advisory_lock(%s)", [key])
    except psycopg.errors.LockNotAvailable:
        raise DataError(
            f"another {what} is at work on this database", remedy="wait until it ends, then run it again"
        ) from None
    try:
        yield
    finally:
        if not connection.closed and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            connection.execute("SELECT pg_advisory_unlock(%s)", [key])


def first_line(error: Exception) -> str:
    """The server's message without its context lines."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
