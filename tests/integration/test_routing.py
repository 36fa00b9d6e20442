"""Read/write routing on real servers, which are killed, frozen, held back and brought back under load."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial

import psutil
import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from services.common.causality import UNKNOWN
from services.common.connections import Server
from services.common.outages import PrimaryUnavailableError, ReadsOverloadedError, ReadsUnavailableError
from services.common.routing import Databases, RoutingConfig
from shopfds_ops.components import postgres
from shopfds_ops.components.base import Live
from tests.conftest import Project

# They are about the services; their servers are the same on both engines.
pytestmark = [pytest.mark.servers, pytest.mark.engines("local")]


CALLERS = 10
SLACK = 2.0
"""Seconds that a busy machine may add to what is promised."""

Open = Callable[..., Databases]


@pytest.fixture(scope="module")
def open_databases(project: Project, live: Live) -> Open:
    """Makes Databases of the shared stack, by a configuration's fields."""
    primary, replica = (postgres.conninfo(live, "shopfds", member) for member in ("primary", "replica"))
    return lambda **fields: Databases(primary, replica, RoutingConfig(**fields))


@pytest.fixture(autouse=True)
def notes(project: Project, live: Live) -> Iterator[None]:
    """An empty table on both servers; afterwards everything runs and replicates again, whatever the test did."""
    with admin(live) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS notes (id bigint GENERATED ALWAYS AS IDENTITY, note text UNIQUE)"
        )
        connection.execute("TRUNCATE notes")
        connection.execute("GRANT ALL ON notes TO shopfds")
    yield
    project.ok("start")
    with admin(live, "replica") as connection:
        connection.execute("SELECT pg_wal_replay_resume()")
    with admin(live) as connection:
        connection.execute("DROP TABLE notes")


@pytest_asyncio.fixture
async def databases(open_databases: Open) -> AsyncIterator[Databases]:
    """With the configuration as it comes, and the replica in use."""
    async with open_databases() as opened:
        await until(lambda: opened.judge.unfit is None)
        yield opened


def admin(live: Live, member: str = "primary") -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(postgres.conninfo(live, "postgres", member), autocommit=True)


async def until(condition: Callable[[], bool], seconds: float = 30) -> float:
    """Wait for it; returns the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "it did not come true in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - started


async def target(session: AsyncSession) -> str:
    """Which server this is."""
    return "replica" if (await session.execute(text("SELECT pg_is_in_recovery()"))).scalar_one() else "primary"


async def find(note: str, session: AsyncSession) -> tuple[int, str]:
    """How often the note is there, and on which server that was asked."""
    query = text("SELECT count(*), pg_is_in_recovery() FROM notes WHERE note = :note")
    count, in_recovery = (await session.execute(query, {"note": note})).one()
    return count, "replica" if in_recovery else "primary"


async def add(databases: Databases, note: str) -> str:
    """Write a note; returns the write's token."""
    async with databases.write() as session:
        await session.execute(text("INSERT INTO notes (note) VALUES (:note)"), {"note": note})
    assert session.token is not None
    return session.token


async def call(project: Project, *arguments: str) -> None:
    """The CLI, while everything else goes on."""
    await asyncio.to_thread(project.ok, *arguments)


@contextmanager
def frozen(project: Project, node: str) -> Iterator[None]:
    """Every process of the node holds its ports and connections, and does nothing."""
    (pid,) = (row["pid"] for row in project.json("ps")["data"] if row["name"] == node)
    postmaster = psutil.Process(pid)
    postmaster.suspend()  # the first, so that no further one is made
    family = [postmaster, *postmaster.children(recursive=True)]
    for process in family:
        process.suspend()
    try:
        yield
    finally:
        for process in reversed(family):
            process.resume()


@dataclass
class Load:
    """What callers saw: when, from which server, and how long each read took (seconds)."""

    reads: list[tuple[float, str, float]] = field(default_factory=list)
    failed: list[Exception] = field(default_factory=list)

    def since(self, moment: float) -> list[tuple[str, float]]:
        return [(server, took) for at, server, took in self.reads if at - took >= moment]

    def share(self, moment: float) -> float:
        """The replica's part of the reads that began after this moment."""
        servers = [server for server, _ in self.since(moment)]
        assert len(servers) > 10, "too few reads to tell"
        return servers.count("replica") / len(servers)

    def worst(self, moment: float = 0) -> float:
        return max(took for _, took in self.since(moment))


@asynccontextmanager
async def under_load(
    databases: Databases, read: Callable[[AsyncSession], Awaitable[str]] = target
) -> AsyncIterator[Load]:
    load = Load()

    async def caller() -> None:
        while True:
            started = time.monotonic()
            try:
                server = await databases.reading(read)
                load.reads.append((time.monotonic(), server, time.monotonic() - started))
            except Exception as error:
                load.failed.append(error)
            await asyncio.sleep(0.02)

    callers = [asyncio.create_task(caller()) for _ in range(CALLERS)]
    try:
        yield load
    finally:
        for task in callers:
            task.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


# -- everything is well ------------------------------------------------------------------------------------------


async def test_reads_go_to_the_replica_and_writes_to_the_primary(databases: Databases) -> None:
    async with databases.write() as session:
        assert await target(session) == "primary"
    async with databases.read() as reader:
        assert await target(reader) == "replica"
    assert await databases.reading(target) == "replica"
    assert (databases.counters.replica_reads, databases.counters.primary_reads) == (2, 0)
    assert databases.counters.writes == 1
    assert databases.judge.lag_seconds is not None


async def test_a_read_cannot_write_on_either_server(databases: Databases, open_databases: Open) -> None:
    async def write(session: AsyncSession) -> None:
        await session.execute(text("INSERT INTO notes (note) VALUES ('smuggled')"))

    with pytest.raises(DBAPIError, match="read-only"):
        await databases.reading(write)
    async with open_databases(lag_limit=-1) as on_primary:
        assert await on_primary.reading(target) == "primary"
        with pytest.raises(DBAPIError, match="read-only"):
            await on_primary.reading(write)


async def test_a_session_that_writes_and_reads_at_once_always_sees_it_and_mostly_on_the_replica(
    databases: Databases,
) -> None:
    seen = []
    for number in range(200):
        token = await add(databases, f"mine {number}")
        seen.append(await databases.reading(partial(find, f"mine {number}"), after=token))
    assert {count for count, _ in seen} == {1}
    assert sum(server == "replica" for _, server in seen) > 100
    assert databases.counters.failed_reads == 0


async def test_what_the_database_refuses_is_told_as_it_is_and_undoes_the_whole_write(databases: Databases) -> None:
    await add(databases, "once")
    with pytest.raises(IntegrityError):
        async with databases.write() as session:
            await session.execute(text("INSERT INTO notes (note) VALUES ('before')"))
            await session.execute(text("INSERT INTO notes (note) VALUES ('once')"))
    assert session.token is None
    token = await add(databases, "after")
    assert (await databases.reading(partial(find, "before"), after=token))[0] == 0
    assert databases.counters.failed_writes == 0


# -- read-your-writes --------------------------------------------------------------------------------------------


async def test_while_replay_stands_still_those_who_wrote_read_from_the_primary_and_others_do_not(
    databases: Databases, live: Live
) -> None:
    with admin(live, "replica") as replica:
        replica.execute("SELECT pg_wal_replay_pause()")
        await until(lambda: replica.execute("SELECT pg_get_wal_replay_pause_state()").fetchone() == ("paused",))
        token = await add(databases, "mine")
        assert await databases.reading(partial(find, "mine"), after=token) == (1, "primary")
        async with databases.read(after=token) as session:
            assert await find("mine", session) == (1, "primary")
        assert await databases.reading(partial(find, "mine")) == (0, "replica")
        replica.execute("SELECT pg_wal_replay_resume()")
    await asyncio.sleep(1)
    assert await databases.reading(partial(find, "mine"), after=token) == (1, "replica")


async def test_a_new_connection_forgets_what_was_replayed_because_the_replica_may_have_been_restarted(
    live: Live,
) -> None:
    server = Server("replica", postgres.conninfo(live, "shopfds", "replica"), connect_timeout=2)
    first = await server.dial({})
    asked_then = server.opened
    server.note_replayed(1000, asked_then)
    assert server.replayed == 1000
    second = await server.dial({})
    assert server.replayed == 0
    server.note_replayed(2000, asked_then)  # an answer that was under way
    assert server.replayed == 0
    await first.close()
    await second.close()


async def test_a_write_whose_position_was_not_told_is_committed_and_read_from_the_primary(
    databases: Databases, live: Live
) -> None:
    async with databases.write() as session:
        await session.execute(text("INSERT INTO notes (note) VALUES ('just in time')"))
        pid = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()

        @event.listens_for(session.sync_session, "after_commit")
        def end(_: object) -> None:
            with admin(live) as connection:
                connection.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    assert session.token == UNKNOWN
    assert databases.counters.writes == 1
    assert await databases.reading(partial(find, "just in time"), after=session.token) == (1, "primary")


# -- the replica fails -------------------------------------------------------------------------------------------


async def test_when_the_replica_is_killed_no_read_fails_and_they_return_to_it_by_themselves(
    databases: Databases, project: Project
) -> None:
    begun = time.monotonic()
    async with under_load(databases) as load:
        await asyncio.sleep(1)
        await call(project, "kill", "postgres-replica")
        await until(lambda: databases.judge.unfit is not None)
        killed = time.monotonic()
        await asyncio.sleep(1)
        assert load.share(killed) == 0
        await call(project, "start", "postgres-replica")
        await until(lambda: databases.judge.unfit is None)
        returned = time.monotonic()
        await asyncio.sleep(1)
    assert load.failed == []
    assert load.share(returned) > 0.95
    assert load.worst(begun) < 1 + SLACK


async def test_when_the_replica_freezes_reads_wait_once_then_go_to_the_primary_and_return(
    databases: Databases, open_databases: Open, project: Project
) -> None:
    async with under_load(databases) as load:
        await asyncio.sleep(1)
        with frozen(project, "postgres-replica"):
            froze = time.monotonic()
            await until(lambda: databases.judge.unfit is not None)
            assert time.monotonic() - froze < databases.config.detection + SLACK
            lost = time.monotonic()
            await asyncio.sleep(2)
            assert load.share(lost) == 0
            assert load.worst(lost) < SLACK
            begun = time.monotonic()
            async with open_databases() as another:  # a service that starts and stops meanwhile
                assert await another.reading(target) == "primary"
            assert time.monotonic() - begun < 2 * another.config.detection + SLACK
        await until(lambda: databases.judge.unfit is None)
        returned = time.monotonic()
        await asyncio.sleep(1)
    assert load.failed == []
    assert load.worst() < databases.config.detection + SLACK
    assert load.share(returned) > 0.95


async def test_a_replica_that_takes_no_new_connections_is_left_too(databases: Databases, project: Project) -> None:
    # Only the postmaster is stopped: the judge's own connection is still answered.
    project.ok("kill", "postgres-replica", "--signal", "SIGSTOP")
    try:
        async with under_load(databases) as load:
            await until(lambda: databases.judge.unfit is not None)
            lost = time.monotonic()
            await asyncio.sleep(1)
        assert load.failed == []
        assert load.share(lost) == 0
    finally:
        project.ok("kill", "postgres-replica", "--signal", "SIGCONT")
    await until(lambda: databases.judge.unfit is None)
    assert await databases.reading(target) == "replica"


async def test_a_read_that_the_replica_cancels_for_replay_is_answered_by_the_primary(
    databases: Databases, live: Live
) -> None:
    began = asyncio.Event()
    asked: list[tuple[str, str | None]] = []

    async def slow(session: AsyncSession) -> int:
        server, refusal = await target(session), None
        began.set()
        try:
            pause = 4 if server == "replica" else 0
            return int((await session.execute(text(f"SELECT count(*) FROM notes, pg_sleep({pause})"))).scalar_one())
        except DBAPIError as error:
            assert isinstance(error.orig, psycopg.Error)
            refusal = error.orig.sqlstate
            raise
        finally:
            asked.append((server, refusal))

    await add(databases, "in the way")
    with admin(live, "replica") as replica, admin(live) as primary:
        replica.execute("ALTER SYSTEM SET max_standby_streaming_delay = '50ms'")
        replica.execute("SELECT pg_reload_conf()")
        try:
            reading = asyncio.create_task(databases.reading(slow))
            await began.wait()
            await asyncio.sleep(0.3)
            primary.execute("TRUNCATE notes")
            assert await reading == 0
        finally:
            replica.execute("ALTER SYSTEM RESET max_standby_streaming_delay")
            replica.execute("SELECT pg_reload_conf()")
    assert asked == [("replica", "40001"), ("primary", None)]
    assert databases.counters.passed_reads == 1
    assert await databases.reading(target) == "replica"


async def test_a_read_whose_connection_the_replica_ends_is_answered_by_the_primary_once(
    databases: Databases, live: Live
) -> None:
    servers = []

    async def ended(session: AsyncSession) -> str:
        servers.append(await target(session))
        pid = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        with admin(live, servers[-1]) as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        return await target(session)

    with pytest.raises(ReadsUnavailableError):
        await databases.reading(ended)
    assert servers == ["replica", "primary"]
    with pytest.raises(ReadsUnavailableError):
        async with databases.read() as session:
            await ended(session)
    assert databases.counters.failed_reads == 2
    await until(lambda: databases.judge.unfit is None)
    assert await databases.reading(target) == "replica"  # it is well, and was not judged otherwise


async def test_a_replica_that_is_too_far_behind_is_not_read_until_it_has_caught_up(
    open_databases: Open, live: Live
) -> None:
    async with open_databases(lag_limit=2) as databases:
        await until(lambda: databases.judge.unfit is None)
        with admin(live, "replica") as replica:
            replica.execute("SELECT pg_wal_replay_pause()")
            took = await until(lambda: databases.judge.unfit is not None)
            assert took > 1
            assert "behind, over the limit of 2 s" in str(databases.judge.unfit)
            assert databases.judge.lag_seconds is not None
            assert databases.judge.lag_seconds > 2
            assert await databases.reading(target) == "primary"
            replica.execute("SELECT pg_wal_replay_resume()")
        await until(lambda: databases.judge.unfit is None)
        assert await databases.reading(target) == "replica"


async def test_a_lag_that_nobody_measures_is_unknown_and_the_replica_not_read(live: Live) -> None:
    # The heartbeat's table is in the stack's own database alone.
    primary, replica = (postgres.conninfo(live, "postgres", member, "postgres") for member in ("primary", "replica"))
    async with Databases(primary, replica) as databases:
        assert databases.judge.lag_seconds is None
        assert "unknown" in str(databases.judge.unfit)
        assert await databases.reading(target) == "primary"


async def test_two_servers_that_are_mistaken_for_each_other_are_not_used_as_such(live: Live) -> None:
    primary, replica = (postgres.conninfo(live, "shopfds", member) for member in ("primary", "replica"))
    async with Databases(replica, primary) as databases:
        with pytest.raises(PrimaryUnavailableError, match="is in recovery"):
            await add(databases, "to the replica")
        with pytest.raises(ReadsUnavailableError):
            await databases.reading(target)


# -- the primary fails -------------------------------------------------------------------------------------------


async def attempts(
    databases: Databases, prefix: str, writers: int = 50
) -> tuple[list[float], list[PrimaryUnavailableError]]:
    """Writes at once: how long each took (seconds), and what those that failed raised."""
    took: list[float] = []
    errors: list[PrimaryUnavailableError] = []

    async def attempt(number: int) -> None:
        started = time.monotonic()
        try:
            await add(databases, f"{prefix} {number}")
        except PrimaryUnavailableError as error:
            errors.append(error)
        took.append(time.monotonic() - started)

    await asyncio.gather(*(attempt(number) for number in range(writers)))
    return took, errors


async def test_when_the_primary_is_killed_reads_go_on_and_writers_are_told_at_once(
    databases: Databases, project: Project
) -> None:
    async with under_load(databases) as load:
        await attempts(databases, "before")
        await call(project, "kill", "postgres-primary")
        took, errors = await attempts(databases, "during the fall")
        assert len(errors) == 50
        assert max(took) < databases.config.acquire_timeout + SLACK
        await until(lambda: databases.judge.unfit is not None)
        down = time.monotonic()
        took, errors = await attempts(databases, "down")
        assert len(errors) == 50
        assert max(took) < 0.5
        assert all(error.retry_after == 5 and not error.in_doubt for error in errors)
        passed = databases.counters.passed_reads
        await asyncio.sleep(1)
        assert load.share(down) == 1
        assert databases.counters.passed_reads == passed  # the replica is asked first
        await call(project, "start", "postgres-primary")
        await until(lambda: databases.judge.unfit is None)
        took, errors = await attempts(databases, "after")
        assert errors == []
    assert load.failed == []
    async with databases.write() as session:
        notes = (await session.scalars(text("SELECT note FROM notes"))).all()
    assert sorted(notes) == sorted(f"{when} {number}" for when in ("before", "after") for number in range(50))


async def test_after_a_restart_of_an_idle_primary_the_first_writes_succeed(
    databases: Databases, project: Project
) -> None:
    await attempts(databases, "before", databases.config.write_connections)
    await call(project, "kill", "postgres-primary")
    await until(lambda: databases.judge.unfit is not None)
    await call(project, "start", "postgres-primary")
    await until(lambda: databases.judge.unfit is None)
    _, errors = await attempts(databases, "after", databases.config.write_connections)
    assert errors == []  # the pool's connections were those of the server that is gone


async def test_when_the_primary_freezes_writers_do_not_pile_up_and_nothing_is_half_done(
    databases: Databases, project: Project
) -> None:
    async with under_load(databases) as load:
        await attempts(databases, "before")
        with frozen(project, "postgres-primary"):
            took, errors = await attempts(databases, "frozen")
            assert len(errors) == 50
            assert max(took) < databases.config.detection + SLACK
            took, errors = await attempts(databases, "still frozen")
            assert len(errors) == 50
            assert max(took) < 0.5
            assert await databases.reading(target) == "replica"
        await until(lambda: databases.judge.unfit is None)
        await attempts(databases, "after")
    assert load.failed == []
    async with databases.write() as session:
        found = await session.execute(text("SELECT split_part(note, ' ', 1), count(*) FROM notes GROUP BY 1"))
        assert dict(found.all()) == {"before": 50, "after": 50}


async def test_without_a_primary_a_session_does_not_lose_sight_of_its_own_write(
    databases: Databases, project: Project, live: Live
) -> None:
    with admin(live, "replica") as replica:
        replica.execute("SELECT pg_wal_replay_pause()")
        await until(lambda: replica.execute("SELECT pg_get_wal_replay_pause_state()").fetchone() == ("paused",))
        token = await add(databases, "mine")
        await call(project, "kill", "postgres-primary")
        await until(lambda: databases.judge.unfit is not None)
        with pytest.raises(ReadsUnavailableError):  # rather than the shop without what the user just did
            await databases.reading(partial(find, "mine"), after=token)
        assert await databases.reading(partial(find, "mine")) == (0, "replica")
        replica.execute("SELECT pg_wal_replay_resume()")
    await asyncio.sleep(1)
    assert await databases.reading(partial(find, "mine"), after=token) == (1, "replica")


async def test_a_primary_that_is_lost_during_commit_leaves_doubt_and_says_so(databases: Databases, live: Live) -> None:
    with admin(live) as connection:
        connection.execute(
            "CREATE FUNCTION pg_temp.wait() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(4); RETURN NULL; END $$"
        )
        schema = connection.execute("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()").fetchone()
        assert schema is not None
        connection.execute(
            "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED"
            f" FOR EACH ROW EXECUTE FUNCTION {schema[0]}.wait()"
        )
        writing = asyncio.create_task(add(databases, "in doubt"))
        waiting = "SELECT pid FROM pg_stat_activity WHERE query ~* '^commit' AND wait_event = 'PgSleep'"
        await until(lambda: connection.execute(waiting).fetchone() is not None, 3)
        connection.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM ({waiting}) AS committing")
        with pytest.raises(PrimaryUnavailableError) as raised:
            await writing
    assert raised.value.in_doubt
    assert databases.counters.failed_writes == 1


# -- too much work -----------------------------------------------------------------------------------------------


async def test_callers_who_find_no_connection_free_are_told_within_the_time_set(open_databases: Open) -> None:
    async with (
        open_databases(write_connections=1, read_connections=1, acquire_timeout=2.5) as databases,
        databases.write(),
        databases.read(),
    ):
        started = time.monotonic()
        failed = await asyncio.gather(add(databases, "too many"), databases.reading(target), return_exceptions=True)
        assert 2 < time.monotonic() - started < 2.5 + SLACK
        assert [type(error) for error in failed] == [PrimaryUnavailableError, ReadsOverloadedError]
        assert databases.counters.passed_reads == 0


async def test_statements_that_take_too_long_are_ended_by_the_server(open_databases: Open) -> None:
    async with open_databases(write_timeout=0.2, read_timeout=0.2) as databases:

        async def sleep(session: AsyncSession) -> None:
            await session.execute(text("SELECT pg_sleep(5)"))

        started = time.monotonic()
        with pytest.raises(ReadsOverloadedError):
            await databases.reading(sleep)
        with pytest.raises(PrimaryUnavailableError):
            async with databases.write() as session:
                await sleep(session)
        assert time.monotonic() - started < 0.4 + SLACK
        assert databases.counters.passed_reads == 0


async def test_a_caller_who_gives_up_leaves_the_pool_as_it_was(open_databases: Open) -> None:
    async with open_databases(read_connections=1) as databases:
        await until(lambda: databases.judge.unfit is None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3), databases.read() as session:
                await session.execute(text("SELECT pg_sleep(4)"))
        assert await databases.reading(target) == "replica"
