"""PostgreSQL's replica: whether it streams, and bringing it back when its slot or the WAL that it needs is gone."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from services.common.replication import SLOT, ReplicationReport, Slot, check_replication_lag
from shopfds_ops.components.base import Live
from shopfds_ops.components.postgres_roles import CONNECT_SECONDS, HEARTBEAT, PRIMARY, REPLICA, conninfo
from shopfds_ops.errors import StepError
from shopfds_ops.events import Note
from shopfds_ops.result import Problem, Table
from shopfds_ops.steps import Deadline, Run
from shopfds_ops.text import bytes_text, seconds_text

REBUILD_SECONDS = 120.0
TRIAL_SECONDS = 10.0
"""How long a replica may try to stream before we ask whether it still can; it tries every second."""

_POSITION = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::text"
_LACKS = """
SELECT %(position)s::pg_lsn < pg_current_wal_lsn()
       AND NOT EXISTS (SELECT FROM pg_ls_waldir() WHERE name = pg_walfile_name(%(position)s::pg_lsn + 1))
"""
"""Whether the segment with the next byte that the replica needs is gone. It is not, where the replica is ahead."""


def replication(live: Live) -> ReplicationReport:
    """The replication report of a stack: `check_replication_lag` with the stack's own addresses and passwords."""
    return check_replication_lag(
        {PRIMARY: conninfo(live, "monitor"), REPLICA: conninfo(live, "monitor", "replica")},
        replica=REPLICA,
        slot=SLOT,
        heartbeat_seconds=live.settings.postgres.heartbeat_seconds,
    )


def check(live: Live) -> str | None:
    """None when the replica streams, else why it does not."""
    report = replication(live)
    if report.connected:
        return None
    if report.slot_is_missing:
        return f"the replica does not stream: {PRIMARY} has no replication slot '{SLOT}'"
    standby = next((member for member in report.members if member.name == REPLICA), None)
    return f"the replica does not stream: {standby.detail or standby.state if standby else 'unknown'}"


def mend(live: Live, run: Run) -> None:
    """A replica that only needs time gets it; one without a slot gets one; one whose WAL is gone is made anew.

    Killed at any moment, it is finished by the next run: see `_rebuild`.
    """
    report = replication(live)
    primary, standby = report.member("primary"), report.member("replica")
    if primary and standby and primary.system_identifier != standby.system_identifier:
        raise StepError(
            f"{REPLICA} holds another database than {PRIMARY} (system identifiers {standby.system_identifier} "
            f"and {primary.system_identifier}); it is not touched, since it may be the only copy",
            remedy=f"save it if you need it; then `shopfds stop {REPLICA}`, remove its volume, `shopfds up`",
        )
    if not report.replica_needs_rebuild:
        if report.slot_is_missing:
            run.sink(Note("warning", f"the replication slot of {REPLICA} is gone from {PRIMARY}: it is made anew"))
            _create_slot(live)
        if _streams(live, run) or not _lacks_wal(live):
            return
    _rebuild(live, run)


def tables(found: ReplicationReport) -> tuple[Table, ...]:
    """What `status` shows of it."""
    members = tuple(
        (
            member.name,
            member.role,
            member.state,
            str(member.timeline or "-"),
            member.sent_lsn or "-",
            member.replayed_lsn or "-",
            "-" if member.role == "primary" else bytes_text(member.lag_bytes),
            "-" if member.role == "primary" else seconds_text(member.lag_seconds),
        )
        for member in found.members
    )
    slots = tuple(
        (slot.name, "yes" if slot.active else "no", slot.wal_status, bytes_text(slot.held_bytes), _room(slot))
        for slot in found.slots
    )
    return (
        Table("Replication", ("member", "role", "state", "TL", "sent", "replayed", ">lag", ">lag time"), members),
        Table("Replication slots", ("slot", "active", "WAL status", ">WAL held", ">WAL room left"), slots),
    )


def problems(found: ReplicationReport, live: Live) -> Iterator[Problem]:
    """What is not as it must be: a member alone first, then what is between the two."""
    alone = list(_alone(found))
    yield from alone or _between(found, live)


def _alone(found: ReplicationReport) -> Iterator[Problem]:
    for member, role in zip(found.members, ("primary", "replica"), strict=True):
        if not member.reachable:
            what = f"does not answer: {member.detail}"
            yield Problem(member.name, what, f"`shopfds logs {member.name}`, then `shopfds up`")
        elif member.role != role:
            yield Problem(member.name, f"is a {member.role}, which it must not be", "`shopfds doctor`")


def _between(found: ReplicationReport, live: Live) -> Iterator[Problem]:
    if found.replica_needs_rebuild:
        yield Problem(REPLICA, "the WAL it needs is gone from the primary", "`shopfds up` rebuilds it")
    elif not found.connected and found.slot_is_missing:
        yield Problem(REPLICA, f"its replication slot '{SLOT}' is gone from the primary", "`shopfds up` makes it anew")
    elif not found.connected:
        yield Problem(REPLICA, "does not stream from the primary", f"`shopfds logs {REPLICA}`, `shopfds up`")
    limit = live.settings.postgres.lag_limit_seconds
    if found.lag_seconds is not None and found.lag_seconds > limit:
        yield Problem(REPLICA, f"is {found.lag_seconds:.1f} s behind (limit {limit:.0f} s)", "wait, or lower the load")
    if found.lag_seconds is None and found.connected:
        yield Problem(HEARTBEAT, "lag in seconds is unknown: no fresh heartbeat", f"`shopfds start {HEARTBEAT}`")


def _room(slot: Slot) -> str:
    return "unlimited" if slot.safe_bytes is None and slot.wal_status != "lost" else bytes_text(slot.safe_bytes)


# -- mending -----------------------------------------------------------------------------------------------------


def _connect(live: Live, member: str = "primary") -> psycopg.Connection:
    return psycopg.connect(
        conninfo(live, "postgres", member, "postgres"), connect_timeout=CONNECT_SECONDS, autocommit=True
    )


def _create_slot(live: Live) -> None:
    """From now on the primary keeps its WAL for the replica."""
    with _connect(live) as connection:
        connection.execute("SELECT pg_create_physical_replication_slot(%s, true)", [SLOT])


def _streams(live: Live, run: Run) -> bool:
    """Whether the replica streams within TRIAL_SECONDS."""
    trial = Deadline(min(TRIAL_SECONDS, run.deadline.left))
    while check(live) is not None:
        if trial.passed:
            return False
        run.pause()
    return True


def _lacks_wal(live: Live) -> bool:
    """Whether the primary no longer has the WAL that comes after what the replica has."""
    with _connect(live, "replica") as connection:
        position = connection.execute(_POSITION).fetchone()
    if position is None or position[0] is None:
        return False
    with _connect(live) as connection:
        row = connection.execute(_LACKS, {"position": position[0]}).fetchone()
    return row is not None and bool(row[0])


def _rebuild(live: Live, run: Run) -> None:
    """Make the replica's data anew from the primary, by what its node does on a first start.

    In this order, because after a kill the next `up` finds either a stopped replica, and starts it; or no slot, makes
    one, sees that the WAL is gone and rebuilds; or no data, and the node begins with a slot and a base backup.
    """
    run.sink(Note("warning", f"the WAL that {REPLICA} needs is gone from {PRIMARY}: it is rebuilt by pg_basebackup"))
    replica = live.topology.node(REPLICA)
    live.engine.stop([replica])
    _drop_slot(live, run)
    live.engine.wipe(replica)
    live.engine.start([replica])


def _drop_slot(live: Live, run: Run) -> None:
    """Waits until the primary has noticed that the replica is gone."""
    with _connect(live) as connection:
        while True:
            try:
                connection.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [SLOT]
                )
            except psycopg.errors.ObjectInUse:
                if run.deadline.passed:
                    raise
                run.pause()
            else:
                return
