"""Workers with a snapshot of their own: no wrong answer whatever happens to the record, and all know who is how far."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import psutil
import psycopg
import pytest
import pytest_asyncio

from services.fds.blacklist.entries import Order, Proposal, Target
from services.fds.blacklist.errors import UnavailableError
from services.fds.blacklist.follower import LEASE, Follower
from services.fds.blacklist.manager import BlacklistManager, proposal
from shopfds_ops.components import postgres, redis_cluster
from shopfds_ops.components.base import Live
from tests.conftest import Project

# They are about the services; their servers are the same on both engines.
pytestmark = [pytest.mark.servers, pytest.mark.engines("local")]


ME = "tester"
TABLES = "fds.blacklist_entries, fds.blacklist_history, fds.blacklist_applied, fds.blacklist_workers"

WORKER = """
import asyncio, sys
from services.fds.blacklist.errors import UnavailableError
from services.fds.blacklist.follower import Follower
async def main():
    async with Follower(sys.argv[1], sys.argv[2]) as follower:
        assert await follower.ready(10)
        print("ready", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def conninfo(live: Live) -> str:
    return postgres.conninfo(live, "shopfds")


def manager_of(live: Live, *, follow: bool) -> BlacklistManager:
    return BlacklistManager.connect(
        postgres.conninfo(live, "shopfds"),
        redis_cluster.endpoints(live),
        "shopfds",
        live.secrets["REDIS_APP_PASSWORD"],
        follow=follow,
    )


@pytest_asyncio.fixture
async def blacklist(live: Live, conninfo: str) -> AsyncIterator[BlacklistManager]:
    """An empty blacklist that nobody follows."""
    execute(conninfo, f"TRUNCATE {TABLES}")
    async with manager_of(live, follow=False) as manager:
        await manager.rebuild()
        yield manager


@asynccontextmanager
async def worker_of(live: Live) -> AsyncIterator[BlacklistManager]:
    async with manager_of(live, follow=True) as manager:
        assert await follower_of(manager).ready(10)
        yield manager


@pytest_asyncio.fixture
async def worker(blacklist: BlacklistManager, live: Live) -> AsyncIterator[BlacklistManager]:
    async with worker_of(live) as manager:
        yield manager


def follower_of(manager: BlacklistManager) -> Follower:
    assert manager.follower is not None
    return manager.follower


def execute(conninfo: str, statement: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(statement)


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 20) -> float:
    start = time.monotonic()
    while not await holds():
        assert time.monotonic() < start + seconds, "it does not hold in time"
        await asyncio.sleep(0.02)
    return time.monotonic() - start


def server_of(conninfo: str) -> psutil.Process:
    with psycopg.connect(conninfo) as connection:
        server = psutil.Process(connection.info.backend_pid).parent()
    assert server is not None
    return server


def send(server: psutil.Process, number: signal.Signals) -> None:
    """To those that serve a connection already as well; the first, so that it makes no more of them meanwhile."""
    server.send_signal(number)
    for process in server.children():
        process.send_signal(number)


async def mend(project: Project) -> None:
    async def well() -> bool:  # a replica that was left alone for long is "behind" until the next heartbeat
        return (await asyncio.to_thread(project.run, "up", "--no-seed")).returncode == 0

    await until(well, 60)


async def user(manager: BlacklistManager, value: str) -> tuple[bool, str]:
    verdict = await manager.check_entry("user", value)
    return verdict.listed, verdict.source


async def test_a_change_is_enforced_by_every_worker_once_the_wait_for_it_ends(
    blacklist: BlacklistManager, live: Live
) -> None:
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(worker_of(live)) for _ in range(4)]
        for number in range(20):
            done = await blacklist.add_entry("user", str(number), reason="r", actor=ME)
            enforcement = await blacklist.wait_until_enforced(done.sequence, 5)
            assert enforcement.complete
            assert len(enforcement.enforcing) == 4
            assert [await user(one, str(number)) for one in workers] == [(True, "snapshot")] * 4
            done = await blacklist.remove_entry("user", str(number), actor=ME, reason="r")
            assert (await blacklist.wait_until_enforced(done.sequence, 5)).complete
            assert [await user(one, str(number)) for one in workers] == [(False, "snapshot")] * 4
        told = await blacklist.workers()
        assert sorted(one.worker for one in told) == sorted(follower_of(one).worker for one in workers)
        assert [(one.sequence, one.changes, one.leased) for one in told] == [(done.sequence, 0, True)] * 4
    assert await blacklist.workers() == []


async def test_a_worker_and_the_cluster_say_the_same_of_every_order(
    blacklist: BlacklistManager, worker: BlacklistManager
) -> None:
    draw = random.Random(5)  # noqa: S311

    def address() -> str:
        return f"10.0.{draw.randrange(4)}.{draw.randrange(8) * 16}"

    def domain() -> str:
        return ".".join([*draw.choices("ab", k=draw.randint(1, 3)), "example"])

    targets = {
        Target.parse(kind, value)
        for kind, value in (
            *(("ip", f"10.0.{draw.randrange(4)}.{draw.randrange(8) * 16}/{draw.randint(28, 32)}") for _ in range(20)),
            *(("range", f"10.0.{number}.0/24") for number in (1, 3)),
            *(("bin", "".join(draw.choices("45", k=draw.randint(6, 8)))) for _ in range(20)),
            *(("domain", domain()) for _ in range(3)),
            *(("email", f"{draw.choice('xy')}@{domain()}") for _ in range(6)),
            *((draw.choice(("user", "device")), str(draw.randrange(20))) for _ in range(20)),
        )
    }
    lives = [None, dt.timedelta(seconds=1), dt.timedelta(hours=1)]
    done = await blacklist.add_entries([proposal(one, draw.choice(lives), "r") for one in targets], actor=ME)
    done = await blacklist.remove_entries(draw.sample(sorted(targets, key=str), 10), actor=ME, reason="r")
    await asyncio.sleep(1.1)
    assert (await blacklist.wait_until_enforced(done.sequence, 5)).complete
    listed = 0
    for _ in range(300):
        order = Order(
            ip=address(),
            card_bin="".join(draw.choices("45", k=8)),
            email=f"{draw.choice('xyz')}@{domain()}",
            user=str(draw.randrange(30)),
            device=str(draw.randrange(30)),
        )
        ours, theirs = await worker.check_order(order), await blacklist.check_order(order)
        assert (ours.source, theirs.source) == ("snapshot", "master")
        assert set(ours.hits) == set(theirs.hits)
        listed += ours.listed
    assert 0 < listed < 300


async def test_an_entry_ends_by_itself_and_a_life_that_is_set_anew_counts(
    blacklist: BlacklistManager, worker: BlacklistManager
) -> None:
    done = await blacklist.add_entry("user", "7", reason="r", actor=ME, ttl=dt.timedelta(seconds=1))
    assert done.changes[0].after is not None
    end = done.changes[0].after.expires_at
    assert end is not None
    await blacklist.wait_until_enforced(done.sequence, 5)

    async def over() -> bool:
        return not (await worker.check_entry("user", "7")).listed

    assert not await over()
    await until(over, 3)
    assert dt.timedelta(0) <= dt.datetime.now(dt.UTC) - end < dt.timedelta(seconds=0.5)
    await blacklist.add_entry("user", "7", reason="r", actor=ME)
    done = await blacklist.set_ttl("user", "7", dt.timedelta(seconds=1), actor=ME, reason="shorter")
    await blacklist.wait_until_enforced(done.sequence, 5)
    assert await user(worker, "7") == (True, "snapshot")
    await until(over, 3)


async def test_a_large_import_is_loaded_by_who_starts_and_followed_by_who_runs(
    blacklist: BlacklistManager, worker: BlacklistManager, live: Live
) -> None:
    proposals = [Proposal(Target.parse("user", str(number)), "r") for number in range(20_000)]
    done = await blacklist.import_entries(proposals, actor=ME)
    assert (await blacklist.wait_until_enforced(done.sequence, 20)).complete
    async with worker_of(live) as late:
        for manager in (worker, late):
            assert follower_of(manager).following.entries == 20_000
            assert follower_of(manager).following.sequence == done.sequence
            assert await user(manager, "19999") == (True, "snapshot")


async def test_a_cut_connection_is_made_again_and_nothing_is_missed(
    blacklist: BlacklistManager, worker: BlacklistManager, conninfo: str
) -> None:
    for number in range(5):
        execute(
            conninfo,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'shopfds-blacklist' AND query NOT LIKE '%pg_advisory%'",
        )
        done = await blacklist.add_entry("user", str(number), reason="r", actor=ME)
        enforcement = await blacklist.wait_until_enforced(done.sequence, 10)
        assert enforcement.complete
        assert (await user(worker, str(number)))[0]
        assert await follower_of(worker).ready(10)


async def test_missing_numbers_of_a_change_that_was_rolled_back_are_no_gap(
    blacklist: BlacklistManager, worker: BlacklistManager
) -> None:
    done = await blacklist.add_entry("user", "1", reason="r", actor=ME)
    assert (await blacklist.wait_until_enforced(done.sequence, 5)).complete
    before = follower_of(worker)._snapshot
    assert before is not None
    with pytest.raises(RuntimeError):
        async with blacklist._record.changing() as changing, changing.transaction():
            await changing.propose([Proposal(Target.parse("user", "never"), "r")], ME, replace=False)
            raise RuntimeError
    done = await blacklist.add_entry("user", "2", reason="r", actor=ME)
    assert (await blacklist.wait_until_enforced(done.sequence, 5)).complete
    assert [await user(worker, value) for value in ("1", "2", "never")] == [
        (True, "snapshot"),
        (True, "snapshot"),
        (False, "snapshot"),
    ]
    assert follower_of(worker)._snapshot is before


@pytest.mark.parametrize("numbering", ["CONTINUE", "RESTART"])
async def test_a_record_that_was_replaced_by_another_is_loaded_again(
    blacklist: BlacklistManager, worker: BlacklistManager, conninfo: str, numbering: str
) -> None:
    for value in ("1", "2", "3"):
        done = await blacklist.add_entry("user", value, reason="old", actor=ME)
    assert (await blacklist.wait_until_enforced(done.sequence, 5)).complete
    await asyncio.to_thread(execute, conninfo, f"TRUNCATE {TABLES} {numbering} IDENTITY")
    for value in ("4", "5", "6", "7"):
        done = await blacklist.add_entry("user", value, reason="new", actor=ME)
    enforcement = await blacklist.wait_until_enforced(done.sequence, 10)
    assert enforcement.complete

    async def renewed() -> bool:
        return follower_of(worker).following.entries == 4 and follower_of(worker).snapshot is not None

    await until(renewed, 5)
    assert [await user(worker, value) for value in ("1", "3", "4", "7")] == [
        (False, "snapshot"),
        (False, "snapshot"),
        (True, "snapshot"),
        (True, "snapshot"),
    ]


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_worker_that_hears_nothing_of_the_record_asks_the_cluster_and_comes_back_by_itself(
    blacklist: BlacklistManager, worker: BlacklistManager, project: Project, conninfo: str, kill: signal.Signals
) -> None:
    done = await blacklist.add_entry("user", "7", reason="r", actor=ME)
    await blacklist.wait_until_enforced(done.sequence, 5)
    server = server_of(conninfo)
    sources: set[str] = set()
    if kill == signal.SIGKILL:
        live = project.stack().live
        live.engine.kill(live.topology.node(postgres.PRIMARY), "SIGKILL")
    else:
        send(server, signal.SIGSTOP)
    try:

        async def stale() -> bool:
            verdict = await worker.check_order(Order(user="7", ip="192.0.2.1"))
            assert len(verdict.hits) == 1
            sources.add(verdict.source)
            return verdict.source != "snapshot"

        took = await until(stale, LEASE + 1)
        assert "snapshot" in sources
        assert sources <= {"snapshot", "master", "replica"}
        assert took < LEASE + 0.5
        assert "snapshot" in (await worker.check_entry("user", "7")).detour
    finally:
        if kill == signal.SIGSTOP:
            send(server, signal.SIGCONT)
        await mend(project)
    assert await follower_of(worker).ready(20)
    done = await blacklist.add_entry("user", "8", reason="r", actor=ME)
    assert (await blacklist.wait_until_enforced(done.sequence, 5)).complete
    assert await user(worker, "8") == (True, "snapshot")


async def test_a_worker_can_be_ended_soon_while_the_record_is_frozen(
    blacklist: BlacklistManager, live: Live, project: Project, conninfo: str
) -> None:
    server = server_of(conninfo)
    async with manager_of(live, follow=True) as manager:
        assert await follower_of(manager).ready(10)
        send(server, signal.SIGSTOP)
        try:
            await asyncio.sleep(1.5)  # past a beat: a question is under way that nobody answers
            start = time.monotonic()
            await manager.aclose()
            assert time.monotonic() - start < 5
        finally:
            send(server, signal.SIGCONT)
            await mend(project)


async def test_without_redis_a_worker_answers_all_the_same_and_without_both_it_never_says_not_listed(
    blacklist: BlacklistManager, worker: BlacklistManager, project: Project
) -> None:
    done = await blacklist.add_entry("user", "7", reason="r", actor=ME)
    assert (await blacklist.wait_until_enforced(done.sequence, 5)).complete
    live = project.stack().live
    primary, nodes = live.topology.node(postgres.PRIMARY), live.topology.of("redis-cluster")
    for node in nodes:
        live.engine.kill(node, "SIGSTOP")
    try:
        worst, end = 0.0, time.monotonic() + LEASE + 1
        while time.monotonic() < end:
            start = time.perf_counter()
            assert [await user(worker, value) for value in ("7", "8")] == [(True, "snapshot"), (False, "snapshot")]
            worst = max(worst, time.perf_counter() - start)
            await asyncio.sleep(0.001)
        assert worst < 0.1
        live.engine.kill(primary, "SIGKILL")
        await asyncio.sleep(LEASE)
        for value in ("7", "8"):
            with pytest.raises(UnavailableError):
                await worker.check_entry("user", value)
    finally:
        for node in nodes:
            live.engine.kill(node, "SIGCONT")
        await mend(project)
    assert await follower_of(worker).ready(20)
    assert await user(worker, "7") == (True, "snapshot")


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_worker_that_was_killed_or_frozen_holds_the_wait_up_for_its_lease_and_no_longer(
    blacklist: BlacklistManager, worker: BlacklistManager, conninfo: str, kill: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, conninfo, "victim"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        assert (await asyncio.to_thread(process.stdout.readline)).strip() == "ready"
        process.send_signal(kill)
        done = await blacklist.add_entry("user", "7", reason="r", actor=ME)
        hurried = await blacklist.wait_until_enforced(done.sequence, 0.5)
        assert hurried.behind == ("victim",)
        assert hurried.enforcing == (follower_of(worker).worker,)
        patient = await blacklist.wait_until_enforced(done.sequence, 10)
        assert patient.complete
        assert patient.silent == ("victim",)
        assert hurried.seconds + patient.seconds < LEASE + 0.5
        victim = next(one for one in await blacklist.workers() if one.worker == "victim")
        assert (victim.leased, victim.changes) == (False, 1)
        assert victim.seconds > 0
    finally:
        process.kill()
        process.wait()
