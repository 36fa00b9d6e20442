"""Routing without servers: tokens, what an outage is, and that nobody waits long for servers that are not there."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy.exc
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from services.common import outages
from services.common.causality import UNKNOWN, InvalidTokenError, position_of, token_of
from services.common.outages import PrimaryUnavailableError, ReadsUnavailableError
from services.common.routing import Counters, Databases, RoutingConfig

QUICK = RoutingConfig(
    judge_interval=0.1, judge_timeout=0.2, connect_timeout=0.2, acquire_timeout=1, read_connections=2, retry_after=7
)
POSITIONS = st.integers(0, 2**64 - 1)


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as held:  # bound but not listening: refuses, and nobody else can take it
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    with socket.socket() as silent:  # accepts, and never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        yield silent.getsockname()[1]


def conninfo(port: int) -> str:
    return f"host=127.0.0.1 port={port} user=shopfds dbname=shopfds"


async def one(session: AsyncSession) -> int:
    return int((await session.execute(text("SELECT 1"))).scalar_one())


# -- tokens ------------------------------------------------------------------------------------------------------


@given(POSITIONS, POSITIONS)
def test_tokens_keep_their_position_and_their_order(one_position: int, other: int) -> None:
    assert position_of(token_of(one_position)) == one_position
    assert (token_of(one_position) < token_of(other)) == (one_position < other)
    assert token_of(one_position) <= UNKNOWN


@given(st.text() | st.from_regex(r"[0-9A-Fa-fx_+ ]{14,18}", fullmatch=True))
def test_what_is_no_token_is_refused_and_never_misread(wild: str) -> None:
    try:
        position = position_of(wild)
    except InvalidTokenError:
        return
    assert token_of(position) == wild


# -- which errors are outages ------------------------------------------------------------------------------------


def wrapped(sqlstate: str) -> sqlalchemy.exc.DBAPIError:
    error = psycopg.errors.lookup(sqlstate)("said the server\nCONTEXT: more")
    return sqlalchemy.exc.DBAPIError("SELECT 1", {}, error)


@pytest.mark.parametrize("sqlstate", ["08006", "53300", "57P01", "57P03", "58030"])
def test_a_server_that_ends_or_refuses_is_lost(sqlstate: str) -> None:
    assert outages.is_lost(wrapped(sqlstate))


@pytest.mark.parametrize("sqlstate", ["23505", "40001", "42P01", "57014", "25006"])
def test_a_server_that_answers_is_not_lost_whatever_it_refuses(sqlstate: str) -> None:
    assert not outages.is_lost(wrapped(sqlstate))


def test_what_only_the_client_notices_is_a_lost_server_unless_it_is_the_clients_own_fault() -> None:
    assert outages.is_lost(psycopg.OperationalError("server closed the connection unexpectedly"))
    assert outages.is_lost(psycopg.InterfaceError("the connection is closed"))
    assert not outages.is_lost(psycopg.ProgrammingError("cannot adapt type"))
    assert not outages.is_lost(ValueError("no error of the database"))


def test_messages_are_one_line() -> None:
    assert outages.first_line(wrapped("57P01")) == "said the server"
    assert outages.first_line(psycopg.OperationalError("")) == "OperationalError"


# -- configuration and counters ----------------------------------------------------------------------------------


def test_a_wait_for_connections_shorter_than_the_detection_of_a_frozen_server_is_refused() -> None:
    with pytest.raises(ValueError, match=r"acquire_timeout must be over 2\.25 s"):
        RoutingConfig(acquire_timeout=1, judge_interval=0.5, judge_timeout=0.75, connect_timeout=1)


def test_the_share_of_the_replica_is_unknown_before_the_first_read() -> None:
    assert Counters().replica_share is None
    assert Counters(replica_reads=19, primary_reads=1).replica_share == 0.95


# -- servers that do not answer ----------------------------------------------------------------------------------


async def test_with_no_server_at_all_calls_fail_at_once_and_say_when_to_come_back(closed_port: int) -> None:
    async with Databases(conninfo(closed_port), conninfo(closed_port), QUICK) as databases:
        started = time.monotonic()
        with pytest.raises(ReadsUnavailableError) as reading:
            await databases.reading(one)
        with pytest.raises(ReadsUnavailableError):
            async with databases.read():
                pytest.fail("there is nothing to read from")
        with pytest.raises(PrimaryUnavailableError) as writing:
            async with databases.write():
                pytest.fail("there is nothing to write to")
        assert time.monotonic() - started < 0.5
        assert (reading.value.retry_after, writing.value.retry_after) == (7, 7)
        assert "refused" in str(writing.value)
        assert "\n" not in str(writing.value)
        assert not writing.value.in_doubt
        assert databases.counters == Counters(passed_reads=2, failed_reads=2, failed_writes=1)
        assert databases.judge.lag_seconds is None
        assert databases.judge.unfit is not None


async def test_servers_that_accept_and_say_nothing_hold_up_neither_the_start_nor_the_callers(silent_port: int) -> None:
    started = time.monotonic()
    async with Databases(conninfo(silent_port), conninfo(silent_port), QUICK) as databases:
        assert time.monotonic() - started < 2
        started = time.monotonic()
        failed = await asyncio.gather(*(databases.reading(one) for _ in range(50)), return_exceptions=True)
        assert time.monotonic() - started < 1
        assert {type(error) for error in failed} == {ReadsUnavailableError}


async def test_a_token_that_is_none_is_told_before_anything_is_asked(closed_port: int) -> None:
    async with Databases(conninfo(closed_port), conninfo(closed_port), QUICK) as databases:
        with pytest.raises(InvalidTokenError):
            await databases.reading(one, after="'; DROP TABLE users; --")
        with pytest.raises(InvalidTokenError):
            async with databases.read(after="0/16B3748"):
                pytest.fail("there is no such token")
