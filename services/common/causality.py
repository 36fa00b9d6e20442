"""Read-your-writes: the token that a write leaves behind, by which later reads of the same session see it."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"[0-9A-F]{16}", re.ASCII)

CURRENT_POSITION = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
"""Asked after COMMIT, it is never before the commit's record. The flush position would be nearer, but is before the
record of a transaction that committed asynchronously; and a replica has replayed one about as soon as the other."""

REPLAYED_POSITION = "SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint"


class InvalidTokenError(ValueError):
    """A token that no write has given out."""


def token_of(position: int) -> str:
    """The token of a position in the WAL (bytes): 16 characters. Of two tokens the later one is the greater string."""
    return f"{position:016X}"


def position_of(token: str) -> int:
    """The position in the WAL (bytes) that a token stands for. Raises InvalidTokenError."""
    if not _TOKEN.fullmatch(token):
        raise InvalidTokenError("not a token that a write gave out")
    return int(token, 16)


UNKNOWN = token_of(0xFFFF_FFFF_FFFF_FFFF)
"""Of a write that was committed, but whose position was not told any more. Only the primary surely shows it."""
