"""Replication lag: what is not measured is unknown, an idle primary is not behind, a cut link cannot hide."""

from __future__ import annotations

import datetime as dt
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.replication import (
    HEARTBEAT_STALE_SECONDS,
    Member,
    ReplicationReport,
    Slot,
    _Answer,
    _lag_bytes,
    _lag_seconds,
    _position,
    check_replication_lag,
)

NOW = dt.datetime(2026, 11, 23, 14, 0, tzinfo=dt.UTC)
BEAT = 1.0


def server(*, now: float = 0, heartbeat: float | None = 0, lsn: str | None = "0/100") -> _Answer:
    """A server whose clock shows NOW + `now`, and whose heartbeat row was written at NOW + `heartbeat` (seconds)."""
    at = None if heartbeat is None else NOW + dt.timedelta(seconds=heartbeat)
    return _Answer({"now": NOW + dt.timedelta(seconds=now), "lsn": lsn}, heartbeat=at)


# -- servers that do not answer ----------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as held:  # bound but not listening: refuses, and nobody else can take it
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_servers_that_do_not_answer_have_unknown_lags_and_never_zero(closed_port: int) -> None:
    info = f"host=127.0.0.1 port={closed_port} user=monitor dbname=shopfds"
    report = check_replication_lag({"postgres-primary": info, "postgres-replica": info}, timeout=1)
    assert [member.name for member in report.members] == ["postgres-primary", "postgres-replica"]
    assert all((member.role, member.state) == ("unknown", "unreachable") for member in report.members)
    assert all(member.lag_bytes is None and member.lag_seconds is None for member in report.members)
    assert all(member.detail and "\n" not in member.detail for member in report.members)
    assert (report.lag_bytes, report.lag_seconds, report.heartbeat_age) == (None, None, None)
    assert not report.connected
    assert report.member("primary") is None
    assert not report.replica_needs_rebuild


def test_a_server_that_accepts_but_never_answers_does_not_hold_us_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        info = f"host=127.0.0.1 port={silent.getsockname()[1]} user=monitor dbname=shopfds"
        start = time.monotonic()
        report = check_replication_lag({"postgres-primary": info}, timeout=2)
        assert time.monotonic() - start < 8
    assert report.members[0].state == "unreachable"


# -- seconds -----------------------------------------------------------------------------------------------------


def test_a_replica_that_shows_the_last_heartbeat_is_not_behind() -> None:
    assert _lag_seconds(server(heartbeat=-0.5), server(heartbeat=-0.5), BEAT) == 0.0


def test_an_idle_primary_that_still_beats_does_not_make_the_replica_seem_behind() -> None:
    for age in (0.0, 1.0, 5.0, HEARTBEAT_STALE_SECONDS):
        assert _lag_seconds(server(heartbeat=-age), server(now=0, heartbeat=-age), BEAT) == 0.0


def test_when_the_heartbeat_has_stopped_the_lag_is_unknown_and_not_zero() -> None:
    age = HEARTBEAT_STALE_SECONDS + 1
    assert _lag_seconds(server(heartbeat=-age), server(heartbeat=-age), BEAT) is None


def test_a_replica_on_a_cut_link_falls_behind_with_every_second() -> None:
    shown = server(heartbeat=-30)
    lags = [_lag_seconds(shown, server(now=later, heartbeat=later), BEAT) for later in (0, 10, 20)]
    assert lags == [29.0, 39.0, 49.0]


@given(shown=st.floats(0, 3600), behind=st.floats(0.001, 3600), later=st.floats(0, 60))
def test_a_replica_that_owes_a_heartbeat_is_never_further_behind_than_the_row_it_shows(
    shown: float, behind: float, later: float
) -> None:
    primary = server(now=later, heartbeat=0)
    lag = _lag_seconds(server(heartbeat=-behind), primary, BEAT)
    assert lag is not None
    assert later - 1e-3 <= lag <= behind + later + 1e-3


@pytest.mark.parametrize(
    ("standby", "primary"),
    [
        (server(), None),
        (server(heartbeat=None), server()),
        (server(), server(heartbeat=None)),
    ],
)
def test_without_both_ends_the_seconds_are_unknown(standby: _Answer, primary: _Answer | None) -> None:
    assert _lag_seconds(standby, primary, BEAT) is None


# -- bytes -------------------------------------------------------------------------------------------------------


def test_bytes_are_what_the_primary_wrote_and_the_replica_did_not_replay() -> None:
    assert _lag_bytes(server(lsn="0/100"), server(lsn="0/180")) == 0x80
    assert _lag_bytes(server(lsn="0/FFFFFF00"), server(lsn="1/0")) == 0x100


def test_a_replica_that_answered_a_moment_later_is_not_ahead() -> None:
    assert _lag_bytes(server(lsn="0/200"), server(lsn="0/100")) == 0


@pytest.mark.parametrize("primary", [None, server()])
def test_without_both_ends_the_bytes_are_unknown(primary: _Answer | None) -> None:
    assert _lag_bytes(server(lsn=None), primary) is None
    assert _lag_bytes(server(), None) is None


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_positions_keep_the_order_and_the_distance_of_the_log(one: int, two: int) -> None:
    def lsn(position: int) -> str:
        return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"

    assert _position(lsn(two)) - _position(lsn(one)) == two - one


# -- the report --------------------------------------------------------------------------------------------------


def report(*members: Member, wal_status: str = "reserved", slot: str = "postgres_replica") -> ReplicationReport:
    return ReplicationReport(members, (Slot(slot, False, wal_status, None, None),), False, None, None, None)


def test_a_slot_that_lost_its_wal_means_that_the_replica_must_be_rebuilt() -> None:
    assert report(wal_status="lost").replica_needs_rebuild
    assert not any(report(wal_status=status).replica_needs_rebuild for status in ("reserved", "extended", "unreserved"))


def test_a_slot_of_somebody_else_that_lost_its_wal_is_not_our_affair() -> None:
    assert not report(wal_status="lost", slot="of_another_replica").replica_needs_rebuild


def test_a_slot_is_missing_only_when_the_primary_answers_and_does_not_have_it() -> None:
    primary = Member("postgres-primary", "primary", "running")
    assert report(primary, slot="of_another_replica").slot_is_missing
    assert not report(primary).slot_is_missing
    assert not report(Member("postgres-primary", "unknown", "unreachable"), slot="of_another_replica").slot_is_missing


def test_members_are_found_by_the_role_they_have_and_not_by_their_name() -> None:
    promoted = Member("postgres-replica", "primary", "running")
    lost = Member("postgres-primary", "unknown", "unreachable")
    assert report(lost, promoted).member("primary") is promoted
    assert report(lost, promoted).member("replica") is None
    assert not lost.reachable
