"""The blacklist on real servers: what is listed is found, what is over is not, no loss of Redis makes it wrong."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import psycopg
import pytest
import pytest_asyncio
import redis
from redis.crc import key_slot

from services.common.cluster_nodes import connect
from services.fds.blacklist.entries import Order, Proposal, Target
from services.fds.blacklist.errors import InvalidValueError, NotListedError, UnavailableError
from services.fds.blacklist.keys import MARKERS, key_of
from services.fds.blacklist.lists import Defaults, ListFormat, read, write_csv
from services.fds.blacklist.manager import BlacklistManager, proposal
from services.fds.blacklist.record import LOCK
from shopfds_ops.components import postgres, redis_cluster
from shopfds_ops.components.base import Live
from tests.conftest import Project

pytestmark = pytest.mark.servers

ME = "tester"
Endpoints = tuple[tuple[str, int], ...]
Another = Callable[[], BlacklistManager]


@pytest.fixture(scope="module")
def endpoints(live: Live) -> Endpoints:
    return redis_cluster.endpoints(live)


@pytest.fixture(scope="module")
def nodes(live: Live, endpoints: Endpoints) -> Iterator[dict[int, redis.Redis]]:
    """Plain admin clients of the six nodes, by port."""
    password = live.secrets["REDIS_ADMIN_PASSWORD"]
    clients = {port: connect(host, port, "admin", password) for host, port in endpoints}
    yield clients
    for client in clients.values():
        client.close()


@pytest_asyncio.fixture
async def blacklist(live: Live, endpoints: Endpoints, nodes: dict[int, redis.Redis]) -> AsyncIterator[BlacklistManager]:
    """An empty blacklist, in the record and in the copy."""
    with psycopg.connect(postgres.conninfo(live, "shopfds"), autocommit=True) as connection:
        connection.execute("TRUNCATE fds.blacklist_entries, fds.blacklist_history, fds.blacklist_applied")
    flush(nodes)
    async with manager_of(live, endpoints) as manager:
        await manager.rebuild()
        yield manager


@pytest.fixture
def another(live: Live, endpoints: Endpoints) -> Another:
    """Makes managers that know nothing yet, as another process would."""
    return lambda: manager_of(live, endpoints)


def manager_of(live: Live, endpoints: Endpoints) -> BlacklistManager:
    return BlacklistManager.connect(
        postgres.conninfo(live, "shopfds"), endpoints, "shopfds", live.secrets["REDIS_APP_PASSWORD"]
    )


def masters(nodes: dict[int, redis.Redis]) -> dict[int, redis.Redis]:
    return {port: client for port, client in nodes.items() if client.role()[0] == "master"}


def flush(nodes: dict[int, redis.Redis]) -> None:
    for client in masters(nodes).values():
        client.flushall()


def master_of(key: str, nodes: dict[int, redis.Redis]) -> int:
    """The port of the master that holds the slot of `key`."""
    slot = key_slot(key.encode())
    for port, client in masters(nodes).items():
        for first, last, master, *_ in client.execute_command("CLUSTER SLOTS"):
            if first <= slot <= last and int(master[1]) == port:
                return port
    raise AssertionError(f"nobody holds slot {slot}")


def stored(target: Target, nodes: dict[int, redis.Redis]) -> tuple[str | None, int]:
    """The value and the milliseconds left that the master has."""
    client = nodes[master_of(key_of(target), nodes)]
    value = client.get(key_of(target))
    return (None if value is None else str(value)), int(str(client.pttl(key_of(target))))


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < end, "it does not hold in time"
        await asyncio.sleep(0.02)


async def test_what_is_outstanding_is_told_at_once_while_somebody_changes_the_list(
    blacklist: BlacklistManager, live: Live
) -> None:
    with psycopg.connect(postgres.conninfo(live, "shopfds"), autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        assert await asyncio.wait_for(blacklist.outstanding(), 5) is None


async def test_a_value_is_listed_until_it_is_removed(blacklist: BlacklistManager) -> None:
    assert not (await blacklist.check_entry("ip", "203.0.113.7")).listed
    done = await blacklist.add_entry("ip", "203.0.113.7", reason="card testing", actor=ME)
    assert done.copied == "replicated"
    verdict = await blacklist.check_entry("ip", "::ffff:203.0.113.7")
    assert verdict.source == "master"
    assert [hit.entry.reason for hit in verdict.hits] == ["card testing"]
    await blacklist.remove_entry("ip", "203.0.113.7", actor=ME, reason="sorry")
    assert not (await blacklist.check_entry("ip", "203.0.113.7")).listed
    with pytest.raises(NotListedError, match=r"203\.0\.113\.7"):
        await blacklist.remove_entry("ip", "203.0.113.7", actor=ME, reason="again")


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [("198.51.100.0/24", "198.51.100.200", "198.51.101.1"), ("2001:db8:7::/48", "2001:db8:7:1::5", "2001:db8:8::5")],
)
async def test_a_range_lists_the_addresses_in_it_and_no_others(
    blacklist: BlacklistManager, another: Another, network: str, inside: str, outside: str
) -> None:
    async with another() as other:
        assert not (await other.check_entry("ip", inside)).listed
        await blacklist.add_entry("range", network, reason="a network", actor=ME)
        verdict = await other.check_entry("ip", inside)  # a process that never met this prefix length
        assert [hit.entry.target.value for hit in verdict.hits] == [network]
        assert verdict.source == "master"
        assert not (await other.check_entry("ip", outside)).listed


async def test_checks_side_by_side_all_find_a_range_of_a_length_that_is_new_to_them(
    blacklist: BlacklistManager, another: Another
) -> None:
    await blacklist.add_entry("range", "198.51.100.0/24", reason="a network", actor=ME)
    async with another() as other:
        verdicts = await asyncio.gather(*(other.check_entry("ip", f"198.51.100.{n}") for n in range(50)))
    assert all(verdict.listed for verdict in verdicts)


async def test_one_order_is_checked_over_all_its_values(blacklist: BlacklistManager) -> None:
    order = Order(ip="192.0.2.9", card_bin="41111122", email="X@mail.shop.example.com", user="4711", device="abc")
    assert not (await blacklist.check_order(order)).listed
    for kind, value in (
        ("ip", "192.0.2.0/28"),
        ("card_bin", "411111"),
        ("email_domain", "example.com"),
        ("email", "x@mail.shop.example.com"),
        ("user", "4711"),
        ("device", "abc"),
    ):
        await blacklist.add_entry(kind, value, reason=kind, actor=ME)
    verdict = await blacklist.check_order(order)
    assert [hit.entry.reason for hit in verdict.hits] == ["ip", "card_bin", "email", "email_domain", "user", "device"]
    with pytest.raises(InvalidValueError):
        await blacklist.check_order(Order(ip="nonsense"))


async def test_entries_are_spread_over_all_masters(blacklist: BlacklistManager, nodes: dict[int, redis.Redis]) -> None:
    await blacklist.add_entries(
        [proposal(Target.parse("ip", f"10.1.{n >> 8}.{n & 255}"), None, "r") for n in range(600)], actor=ME
    )
    sizes = [int(str(client.dbsize())) for client in masters(nodes).values()]
    assert len(sizes) == 3
    assert min(sizes) > 120


async def test_an_entry_is_not_enforced_after_its_time(
    blacklist: BlacklistManager, nodes: dict[int, redis.Redis]
) -> None:
    target = Target.parse("user", "7")
    await blacklist.add_entry("user", "7", reason="r", actor=ME, ttl=dt.timedelta(seconds=1))
    assert (await blacklist.check_entry("user", "7")).listed

    async def over() -> bool:
        return not (await blacklist.check_entry("user", "7")).listed

    await until(over, 3)
    assert stored(target, nodes)[0] is None
    assert (await blacklist.list_entries()).total == 0
    await blacklist.rebuild()
    assert [one.action for one in await blacklist.history([target])] == ["expired", "added"]


async def test_an_expired_value_that_redis_still_holds_is_not_enforced(
    blacklist: BlacklistManager, nodes: dict[int, redis.Redis]
) -> None:
    target = Target.parse("user", "7")
    await blacklist.add_entry("user", "7", reason="r", actor=ME, ttl=dt.timedelta(seconds=1))
    nodes[master_of(key_of(target), nodes)].persist(key_of(target))

    async def over() -> bool:
        return not (await blacklist.check_entry("user", "7")).listed

    await until(over, 3)
    assert stored(target, nodes)[0] is not None


async def test_the_longer_life_wins_unless_told_otherwise(blacklist: BlacklistManager) -> None:
    async def add(days: int | None, *, replace: bool = False) -> tuple[str, dt.datetime | None]:
        ttl = None if days is None else dt.timedelta(days=days)
        done = await blacklist.add_entry("user", "7", reason=f"{days}", actor=ME, ttl=ttl, replace=replace)
        after = done.changes[0].after
        assert after is not None
        return done.changes[0].action, after.expires_at

    _, week = await add(7)
    assert await add(1) == ("unchanged", week)
    action, month = await add(30)
    assert action == "extended"
    assert month is not None
    assert week is not None
    assert month > week
    assert await add(None) == ("extended", None)
    assert (await add(1))[0] == "unchanged"
    action, day = await add(1, replace=True)
    assert action == "replaced"
    assert day is not None
    assert day < week
    assert (await blacklist.list_entries()).total == 1


async def test_the_history_says_who_when_and_why(blacklist: BlacklistManager, live: Live) -> None:
    target = Target.parse("user", "7")
    start = dt.datetime.now(dt.UTC)
    await blacklist.add_entry("user", "7", reason="first", actor="ann")
    await blacklist.set_ttl("user", "7", dt.timedelta(hours=1), actor="bob", reason="shorter")
    await blacklist.remove_entry("user", "7", actor="cat", reason="innocent")
    told = await blacklist.history([target])
    assert [(one.action, one.actor, one.reason) for one in told] == [
        ("removed", "cat", "innocent"),
        ("ttl", "bob", "shorter"),
        ("added", "ann", "first"),
    ]
    assert all(start <= one.at for one in told)
    removed, changed, added = told
    assert added.before is None
    assert added.after is not None
    assert added.after["expires_at"] is None
    assert changed.before == added.after
    assert removed.before == changed.after
    assert removed.after is None
    with (
        psycopg.connect(postgres.conninfo(live, "shopfds")) as connection,
        pytest.raises(psycopg.errors.RestrictViolation, match="append-only"),
    ):
        connection.execute("DELETE FROM fds.blacklist_history")


async def test_what_is_exported_can_be_imported_into_an_empty_blacklist(
    blacklist: BlacklistManager, nodes: dict[int, redis.Redis]
) -> None:
    await blacklist.add_entry("ip", "2001:db8::/32", reason='a "quoted", reason', actor=ME)
    await blacklist.add_entry("email", "a@b.example", reason="r", actor=ME, ttl=dt.timedelta(days=3))
    before = [entry async for entry in blacklist.export()]
    text = "".join(write_csv(before))
    await blacklist.remove_entries([entry.target for entry in before], actor=ME, reason="moved")
    reading = read(text, ListFormat.csv, Defaults(reason="x"), dt.datetime.now(dt.UTC))
    done = await blacklist.import_entries(reading.proposals, actor="importer")
    assert done.counts == {"added": 2}
    after = [entry async for entry in blacklist.export()]
    assert [(one.target, one.reason, one.expires_at) for one in after] == [
        (one.target, one.reason, one.expires_at) for one in before
    ]
    assert (await blacklist.check_entry("ip", "2001:db8::1")).source == "master"
    again = await blacklist.import_entries(reading.proposals, actor="importer")
    assert again.counts == {"unchanged": 2}


async def test_a_flushed_cluster_never_says_not_listed_and_rebuild_restores_all_with_the_time_left(
    blacklist: BlacklistManager, nodes: dict[int, redis.Redis]
) -> None:
    proposals = [
        proposal(Target.parse("user", str(n)), dt.timedelta(hours=n) if n % 2 else None, "r") for n in range(1, 301)
    ]
    await blacklist.import_entries(proposals, actor=ME)
    await blacklist.add_entry("range", "10.0.0.0/8", reason="r", actor=ME)
    before = {one.target: stored(one.target, nodes) for one in proposals}
    flush(nodes)
    verdict = await blacklist.check_order(Order(user="7", ip="10.1.2.3"))
    assert (len(verdict.hits), verdict.source) == (2, "record")
    done = await blacklist.rebuild()
    assert (done.entries, done.missing, done.extra, done.markers) == (301, 301, 0, len(MARKERS))
    for target, (value, left) in before.items():
        restored, now_left = stored(target, nodes)
        assert restored == value
        assert (left == now_left == -1) or left - 30_000 < now_left <= left
    assert (await blacklist.check_order(Order(user="7", ip="10.1.2.3"))).source == "master"
    assert (await blacklist.rebuild()).mended == 0


async def test_one_flushed_master_is_noticed_and_the_next_change_mends_it(
    blacklist: BlacklistManager, nodes: dict[int, redis.Redis]
) -> None:
    await blacklist.add_entry("user", "7", reason="r", actor=ME)
    nodes[master_of(key_of(Target.parse("user", "7")), nodes)].flushall()
    assert (await blacklist.check_entry("user", "7")).source == "record"
    assert (await blacklist.check_entry("user", "7")).listed
    await blacklist.add_entry("user", "8", reason="r", actor=ME)
    verdict = await blacklist.check_entry("user", "7")
    assert (verdict.listed, verdict.source) == (True, "master")


async def test_rebuild_mends_drift_in_both_directions_and_says_so(
    blacklist: BlacklistManager, nodes: dict[int, redis.Redis]
) -> None:
    targets = [Target.parse("user", str(n)) for n in range(4)]
    for target in targets:
        await blacklist.add_entry("user", target.value, reason="r", actor=ME, ttl=dt.timedelta(days=1))
    missing, expiry, content, _ = targets
    extra = Target.parse("user", "stranger")

    def at(target: Target) -> redis.Redis:
        return nodes[master_of(key_of(target), nodes)]

    at(missing).delete(key_of(missing))
    at(expiry).pexpire(key_of(expiry), 5_000_000)
    at(content).set(key_of(content), "nonsense", keepttl=True)
    at(extra).set(key_of(extra), "{}")
    done = await blacklist.rebuild()
    assert (done.missing, done.extra, done.expiry, done.content, done.markers) == (1, 1, 1, 1, 0)
    assert (await blacklist.rebuild()).mended == 0
    assert stored(extra, nodes)[0] is None


async def test_a_change_whose_process_died_before_it_reached_the_copy_is_mended(
    blacklist: BlacklistManager, live: Live, nodes: dict[int, redis.Redis]
) -> None:
    await blacklist.add_entry("user", "7", reason="r", actor=ME)
    async with blacklist._record.changing() as changing, changing.transaction():  # as far as a killed process came
        await changing.propose([Proposal(Target.parse("user", "8"), "r")], ME, replace=False)
        await changing.remove([Target.parse("user", "7")], ME, "r")
    for kind, value, listed in (("user", "7", False), ("user", "8", True)):
        target = Target.parse(kind, value)
        assert (await blacklist.check_targets([target], certain=True)).listed is listed
    await blacklist.settle()
    assert not (await blacklist.check_entry("user", "7")).listed
    assert (await blacklist.check_entry("user", "8")).source == "master"
    assert (await blacklist.check_entry("user", "8")).listed


async def test_writers_in_several_processes_leave_record_and_copy_alike(
    blacklist: BlacklistManager, another: Another
) -> None:
    async def writer(name: str) -> None:
        async with another() as manager:
            for turn in range(15):
                await manager.add_entry(
                    "user", "7", reason=f"{name} {turn}", actor=name, ttl=dt.timedelta(hours=turn + 1), replace=True
                )

    await asyncio.gather(*(writer(name) for name in ("ann", "bob", "cat")))
    assert (await blacklist.rebuild()).mended == 0


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGSTOP"])
async def test_checks_stay_right_and_quick_while_the_master_that_holds_the_entry_is_dead_or_frozen(
    blacklist: BlacklistManager,
    another: Another,
    nodes: dict[int, redis.Redis],
    project: Project,
    signal: str,
) -> None:
    values = [str(n) for n in range(40)]
    await blacklist.add_entries([proposal(Target.parse("user", value), None, "r") for value in values], actor=ME)
    port = master_of(key_of(Target.parse("user", "7")), nodes)
    live = project.stack().live
    node = next(one for one in live.topology.of("redis-cluster") if live.address(one.name, "client")[1] == port)
    live.engine.kill(node, signal)
    try:
        worst, moved, end = 0.0, False, time.monotonic() + 30
        while not moved:
            for value in values:
                start = time.perf_counter()
                verdict = await blacklist.check_order(Order(user=value, device=value))
                worst = max(worst, time.perf_counter() - start)
                assert [hit.entry.target.value for hit in verdict.hits] == [value]
            async with another() as fresh:
                verdict = await fresh.check_entry("user", "7")
                assert verdict.listed
                moved = verdict.source == "master"
            assert time.monotonic() < end, "no replica took over"
        assert worst < 1.0
        done = await blacklist.add_entry("user", "new", reason="r", actor=ME)
        assert done.copied in ("replicated", "unreplicated")
        assert (await blacklist.check_entry("user", "new")).listed
    finally:
        if signal == "SIGSTOP":
            live.engine.kill(node, "SIGCONT")
        project.ok("up", "--no-seed")
    assert (await blacklist.rebuild()).missing == 0


async def test_without_redis_the_record_answers_and_changes_wait_for_the_copy(
    live: Live, blacklist: BlacklistManager
) -> None:
    nowhere = (("127.0.0.1", 1),)
    async with manager_of(live, nowhere) as manager:
        done = await manager.add_entry("user", "7", reason="r", actor=ME)
        assert done.copied == "pending"
        assert done.problem
        verdict = await manager.check_entry("user", "7")
        assert (verdict.listed, verdict.source) == (True, "record")
    await blacklist.settle()
    assert (await blacklist.check_entry("user", "7")).source == "master"


async def test_without_both_servers_the_answer_is_an_error_and_never_not_listed() -> None:
    nowhere = "host=127.0.0.1 port=1 user=nobody dbname=none"
    async with BlacklistManager.connect(nowhere, [("127.0.0.1", 1)], "u", "p") as manager:
        with pytest.raises(UnavailableError, match="PostgreSQL"):
            await manager.check_entry("user", "7")


async def test_the_layout_has_one_marker_for_every_bucket(
    blacklist: BlacklistManager, nodes: dict[int, redis.Redis]
) -> None:
    found = [key for client in masters(nodes).values() for key in client.scan_iter("bl:*:ready")]
    assert sorted(str(key) for key in found) == sorted(MARKERS)


def test_the_cli_adds_checks_lists_and_removes(project: Project, blacklist: BlacklistManager) -> None:
    project.ok("blacklist", "add", "--ip", "203.0.113.7", "--ttl", "7d", "--reason", "card testing")
    found = project.run("blacklist", "check", "--ip", "203.0.113.7", "--user", "1")
    assert found.returncode == 1
    assert "card testing" in found.stdout
    assert project.run("blacklist", "check", "--ip", "203.0.113.8").returncode == 0
    assert project.json("blacklist", "list")["data"]["total"] == 1
    exported = project.ok("blacklist", "export")
    project.ok("blacklist", "remove", "--ip", "203.0.113.7")
    project.ok("blacklist", "import", "-", stdin=exported)
    assert project.json("blacklist", "list")["data"]["entries"][0]["reason"] == "card testing"
    actions = [one["action"] for one in project.json("blacklist", "history")["data"]]
    assert actions == ["added", "removed", "added"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "--ip", "1.2.3.400"), "1.2.3.400"),
        (("add", "--range", "10.0.0.1/8"), "10.0.0.0/8"),
        (("add", "--ip", "1.1.1.1", "--bin", "12"), "6 to 8"),
        (("add", "--ip", "1.1.1.1", "--ttl", "soon"), "soon"),
        (("add",), "no value is named"),
        (("import", "no-such-file.csv"), "no-such-file.csv"),
    ],
)
def test_the_cli_refuses_bad_input_with_one_line_and_changes_nothing(
    project: Project, blacklist: BlacklistManager, arguments: tuple[str, ...], said: str
) -> None:
    done = project.run("blacklist", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert project.json("blacklist", "list")["data"]["total"] == 0


def test_the_cli_imports_all_lines_or_none(project: Project, blacklist: BlacklistManager) -> None:
    lines = "1.1.1.1\n1.1.1.999\n2.2.2.2\n"
    refused = project.run("blacklist", "import", "-", stdin=lines)
    assert refused.returncode == 2
    assert "line 2" in refused.stderr
    assert project.json("blacklist", "list")["data"]["total"] == 0
    project.ok("blacklist", "import", "-", "--skip-invalid", stdin=lines)
    assert project.json("blacklist", "list")["data"]["total"] == 2
