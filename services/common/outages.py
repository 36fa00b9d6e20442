"""What it means when PostgreSQL does not serve: which of its errors say so, and the errors that callers see then."""

from __future__ import annotations

import psycopg
import sqlalchemy.exc

_LOST = (
    "08",  # the connection failed
    "53",  # out of connections, disk or memory
    "57P",  # shutting down, starting up, or told to end this session
    "58",  # an input or output error of its disk
)
_RECOVERY_CONFLICT = ("40001", "40P01")
_READ_ONLY = "25006"
_TOO_LONG = "57014"


class DatabaseUnavailableError(Exception):
    """The database does not serve this now, and may again in `retry_after` seconds."""

    def __init__(self, what: str, *, retry_after: int) -> None:
        super().__init__(what)
        self.retry_after = retry_after


class PrimaryUnavailableError(DatabaseUnavailableError):
    """A write was not done. When `in_doubt`, the primary was lost during COMMIT: all of it is done, or nothing."""

    def __init__(self, what: str, *, retry_after: int, in_doubt: bool = False) -> None:
        super().__init__(what, retry_after=retry_after)
        self.in_doubt = in_doubt


class ReadsUnavailableError(DatabaseUnavailableError):
    """A read was not answered, by neither server."""


class ReadsOverloadedError(ReadsUnavailableError):
    """A read took too long, or found no connection free. Not tried elsewhere: the load would only move there."""


def is_lost(error: Exception) -> bool:
    """Whether the server, or the connection to it, is gone or of no use. Another server may well answer."""
    cause = _cause(error)
    if not isinstance(cause, psycopg.Error):
        return False
    if cause.sqlstate is None:  # no answer of a server: the client's side noticed
        return isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError)
    return cause.sqlstate.startswith(_LOST)


def is_recovery_conflict(error: Exception) -> bool:
    """Whether a replica cancelled the read, because it stood in the way of replaying what the primary did."""
    return _sqlstate(error) in _RECOVERY_CONFLICT


def is_read_only(error: Exception) -> bool:
    """Whether a write met a server that takes none: a replica."""
    return _sqlstate(error) == _READ_ONLY


def is_too_long(error: Exception) -> bool:
    """Whether the server gave up by statement_timeout."""
    return _sqlstate(error) == _TOO_LONG


def is_overload(error: Exception) -> bool:
    """Whether no connection of the pool came free in time."""
    return isinstance(error, sqlalchemy.exc.TimeoutError)


def first_line(error: Exception) -> str:
    """What the server or the client says, without its context lines."""
    lines = str(_cause(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _cause(error: Exception) -> BaseException:
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        return error.orig
    return error


def _sqlstate(error: Exception) -> str | None:
    cause = _cause(error)
    return cause.sqlstate if isinstance(cause, psycopg.Error) else None
