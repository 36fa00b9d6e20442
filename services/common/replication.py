"""PostgreSQL replication as it is: connected, bytes and seconds as three separate figures, unknown where not measured.

The usual recipes mislead: `now() - pg_last_xact_replay_timestamp()` grows on an idle primary, and comparing received
with replayed WAL reads 0 on a cut link. Seconds come from a heartbeat row instead, which the primary rewrites all the
time.
Sources: PostgreSQL's documentation of pg_stat_replication, pg_stat_wal_receiver and pg_replication_slots.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

HEARTBEAT_STALE_SECONDS = 10.0
SLOT = "postgres_replica"
"""The replica's replication slot, unless told otherwise."""

_COMMON = """
SELECT pg_is_in_recovery() AS in_recovery,
       (SELECT timeline_id FROM pg_control_checkpoint()) AS timeline,
       (SELECT system_identifier FROM pg_control_system())::text AS system_identifier,
       pg_postmaster_start_time() AS started_at,
       clock_timestamp() AS now,
       to_regclass('ops.heartbeat') IS NOT NULL AS has_heartbeat
"""
_PRIMARY = "SELECT pg_current_wal_lsn()::text AS lsn"
_SENDERS = """
SELECT application_name, state, sent_lsn::text, replay_lsn::text,
       pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint AS lag_bytes
FROM pg_stat_replication ORDER BY application_name
"""
_SLOTS = """
SELECT slot_name AS name, active, wal_status, safe_wal_size::bigint AS safe_bytes,
       pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint AS held_bytes
FROM pg_replication_slots WHERE slot_type = 'physical' ORDER BY slot_name
"""
_STANDBY = """
SELECT pg_last_wal_replay_lsn()::text AS lsn, (SELECT status FROM pg_stat_wal_receiver) AS receiver,
       (SELECT received_tli FROM pg_stat_wal_receiver) AS received_timeline
"""
_HEARTBEAT = "SELECT at FROM ops.heartbeat"


@dataclass(frozen=True, slots=True)
class Member:
    """One PostgreSQL node. LSNs as PostgreSQL writes them; lags in bytes and seconds; None is unknown, never 0."""

    name: str
    role: str
    """primary, replica, or unknown when it does not answer."""
    state: str
    """running, streaming, catchup, disconnected or unreachable."""
    timeline: int | None = None
    sent_lsn: str | None = None
    replayed_lsn: str | None = None
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    system_identifier: str | None = None
    detail: str = ""

    @property
    def reachable(self) -> bool:
        return self.state != "unreachable"


@dataclass(frozen=True, slots=True)
class Slot:
    """A physical replication slot: what it holds on the primary, and how much more it may (bytes)."""

    name: str
    active: bool
    wal_status: str
    """reserved, extended, unreserved, or lost: the WAL that the replica needs is gone."""
    held_bytes: int | None
    safe_bytes: int | None


@dataclass(frozen=True, slots=True)
class ReplicationReport:
    """One look at the primary and its replica."""

    members: tuple[Member, ...]
    slots: tuple[Slot, ...]
    connected: bool
    """Whether the replica streams from the primary now."""
    lag_bytes: int | None
    lag_seconds: float | None
    heartbeat_age: float | None
    """Seconds since the primary's heartbeat row was written; a stopped heartbeat makes lag in seconds unknown."""
    slot_name: str = SLOT
    """The replica's own slot; any other one is somebody else's affair."""

    def member(self, role: str) -> Member | None:
        """The member with this role, if it answers."""
        return next((member for member in self.members if member.role == role), None)

    @property
    def slot(self) -> Slot | None:
        """The replica's slot; None when the primary does not have it, or does not answer."""
        return next((slot for slot in self.slots if slot.name == self.slot_name), None)

    @property
    def slot_is_missing(self) -> bool:
        """Whether the primary answers, and has no slot for the replica: without it the replica cannot stream."""
        return self.member("primary") is not None and self.slot is None

    @property
    def replica_needs_rebuild(self) -> bool:
        """Whether the replica's slot has lost the WAL that the replica needs."""
        return self.slot is not None and self.slot.wal_status == "lost"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one server said; `error` when it did not answer."""

    rows: Mapping[str, Any]
    senders: tuple[Mapping[str, Any], ...] = ()
    slots: tuple[Slot, ...] = ()
    heartbeat: dt.datetime | None = None
    error: str = ""


def check_replication_lag(
    conninfos: Mapping[str, str],
    *,
    replica: str = "postgres-replica",
    slot: str = SLOT,
    heartbeat_seconds: float = 1.0,
    timeout: int = 2,
) -> ReplicationReport:
    """Ask all members side by side, and put their answers together.

    `conninfos`: libpq connection strings by member name, of a role with pg_monitor. `replica`: the application name
    under which the replica streams; `slot`: its replication slot. `heartbeat_seconds`: how often the heartbeat row is
    written. `timeout`: seconds for each server. Never raises for a server that is down.
    """
    with ThreadPoolExecutor(max_workers=len(conninfos)) as pool:
        answers = dict(zip(conninfos, pool.map(lambda info: _ask(info, timeout), conninfos.values()), strict=True))
    primary = next((a for a in answers.values() if not a.error and not a.rows["in_recovery"]), None)
    sender = next((row for row in primary.senders if row["application_name"] == replica), None) if primary else None
    members = tuple(_member(name, answer, primary, sender, heartbeat_seconds) for name, answer in answers.items())
    standby = next((member for member in members if member.role == "replica"), None)
    connected = sender is not None and sender["state"] == "streaming" and standby is not None
    age = (primary.rows["now"] - primary.heartbeat).total_seconds() if primary and primary.heartbeat else None
    return ReplicationReport(
        members=members,
        slots=primary.slots if primary else (),
        connected=connected,
        lag_bytes=standby.lag_bytes if standby else None,
        lag_seconds=standby.lag_seconds if standby else None,
        heartbeat_age=None if age is None else max(0.0, age),
        slot_name=slot,
    )


def _ask(conninfo: str, timeout: int) -> _Answer:
    try:
        with psycopg.connect(
            conninfo,
            connect_timeout=timeout,
            options=f"-c statement_timeout={timeout * 1000}",
            autocommit=True,
            row_factory=dict_row,
        ) as connection:
            rows = dict(_one(connection, _COMMON))
            heartbeat = _one(connection, _HEARTBEAT) if rows["has_heartbeat"] else {}
            if rows["in_recovery"]:
                return _Answer(rows | _one(connection, _STANDBY), heartbeat=heartbeat.get("at"))
            return _Answer(
                rows | _one(connection, _PRIMARY),
                senders=tuple(connection.execute(_SENDERS).fetchall()),
                slots=tuple(Slot(**row) for row in connection.execute(_SLOTS).fetchall()),
                heartbeat=heartbeat.get("at"),
            )
    except psycopg.Error as error:
        return _Answer({}, error=_one_line(error))


def _one(connection: psycopg.Connection[dict[str, Any]], query: str) -> dict[str, Any]:
    return connection.execute(query.encode()).fetchone() or {}


def _member(
    name: str, answer: _Answer, primary: _Answer | None, sender: Mapping[str, Any] | None, beat: float
) -> Member:
    if answer.error:
        return Member(name, "unknown", "unreachable", detail=answer.error)
    timeline = answer.rows["timeline"]
    identifier = answer.rows["system_identifier"]
    if not answer.rows["in_recovery"]:
        return Member(name, "primary", "running", timeline, answer.rows["lsn"], None, system_identifier=identifier)
    state = "disconnected" if sender is None else str(sender["state"])
    return Member(
        name,
        "replica",
        state,
        answer.rows["received_timeline"] or timeline,
        sender["sent_lsn"] if sender else None,
        answer.rows["lsn"],
        lag_bytes=_lag_bytes(answer, primary),
        lag_seconds=_lag_seconds(answer, primary, beat),
        system_identifier=identifier,
    )


def _lag_bytes(standby: _Answer, primary: _Answer | None) -> int | None:
    """WAL that the primary wrote and the standby did not replay, measured at both ends: a cut link cannot hide it."""
    if primary is None or not standby.rows["lsn"]:
        return None
    return max(0, _position(primary.rows["lsn"]) - _position(standby.rows["lsn"]))


def _lag_seconds(standby: _Answer, primary: _Answer | None, beat: float) -> float | None:
    if primary is None:
        return None
    return heartbeat_lag(standby.heartbeat, primary.heartbeat, primary.rows["now"], beat)


def heartbeat_lag(
    shown: dt.datetime | None, written: dt.datetime | None, now: dt.datetime, beat: float
) -> float | None:
    """For how many seconds a standby has owed a heartbeat: 0 when it shows the primary's last one; None when unknown.

    `shown`: the heartbeat on the standby; `written`: the one on the primary, whose clock shows `now`; `beat`: seconds
    between two. The first one it owes came `beat` seconds after the one it shows, or is the primary's last.
    """
    if written is None or shown is None:
        return None
    if shown >= written:
        return None if (now - written).total_seconds() > HEARTBEAT_STALE_SECONDS else 0.0
    owed = min(written, shown + dt.timedelta(seconds=beat))
    return max(0.0, (now - owed).total_seconds())


def _position(lsn: str) -> int:
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def _one_line(error: psycopg.Error) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
