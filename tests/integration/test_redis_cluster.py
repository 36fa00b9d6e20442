"""Six real Redis nodes: creation, its interruption at any moment, lost data folders, dead masters, wrong passwords."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import jinja2
import pytest
import redis
from redis.crc import key_slot

from services.common.cluster import ClusterReport, cluster_report
from services.common.cluster_nodes import REPLICATION_USER, NodeView, observe
from shopfds_ops.components.base import Live, Plan
from shopfds_ops.components.redis_cluster import CONFIG, NAMES, RedisCluster, endpoints
from shopfds_ops.components.redis_users import ADMIN, APPLICATION, HEALTH
from shopfds_ops.engines.base import Completed, Engine
from shopfds_ops.errors import StepError
from shopfds_ops.events import discard
from shopfds_ops.secrets import PURPOSES, Secrets
from shopfds_ops.settings import Ports, Redis, Settings
from shopfds_ops.steps import Deadline, Run, Step, run_graph
from shopfds_ops.topology import Node, Topology

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]

TEMPLATE = Path(__file__).parents[2] / "templates" / "redis" / "redis-cluster.conf.j2"
NODE_TIMEOUT = 1000
SHARDS = 3
READING = ("|nodes", "|info", "|slots", "|myid", "|countkeysinslot")
"""Subcommands of CLUSTER that change nothing."""


class Nodes:
    """Six redis-server processes in one folder: a site, and as much of an engine as the component uses."""

    name = "test"
    listen = "127.0.0.1"
    peers = "127.0.0.1/32"

    def __init__(self, folder: Path, first_port: int) -> None:
        self.folder = folder
        self.site = self
        self.settings = Settings(ports=Ports(redis=first_port), redis=Redis(node_timeout_ms=NODE_TIMEOUT))
        self.secrets = Secrets({name: f"{name.lower()}-of-this-test" for name in PURPOSES})
        self.component = RedisCluster()
        plan = Plan(self.settings, self)
        self.topology = Topology(tuple(self.component.nodes(plan)))
        self.live = Live(self.settings, self.secrets, cast(Engine, self), self.topology)
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701
        config = environment.from_string(TEMPLATE.read_text()).render(settings=self.settings, site=self)
        (folder / "redis-cluster.conf").write_text(config)
        for name, content in self.component.secret_files(plan, self.secrets).items():
            (folder / name).write_text(content)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.during_create: Callable[[subprocess.Popen[str]], None] = lambda _: None

    # A site
    def host(self, _: str, network: object = None) -> str:
        return "127.0.0.1"

    def volume(self, node: str, volume: str, image: str = "") -> str:
        path = self.folder / node / volume
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    def config(self, source: str) -> str:
        assert source == CONFIG
        return str(self.folder / "redis-cluster.conf")

    def secret(self, _: str, name: str) -> str:
        return str(self.folder / name)

    def version(self, _: str) -> tuple[int, ...]:
        return (7, 0)

    # As much of an engine
    def address(self, node: Node, port: str) -> tuple[str, int]:
        return "127.0.0.1", node.port(port)

    def execute(
        self,
        _: Node,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout: float = 60.0,
    ) -> Completed:
        assert not any(secret in word for word in argv for secret in self.secrets.values.values())
        process = subprocess.Popen(
            argv, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.during_create(process)
        out, err = process.communicate(stdin, timeout=timeout)
        return Completed(tuple(argv), process.returncode, out, err)

    # What the tests do to them
    def start(self, *names: str) -> None:
        for name in names or NAMES:
            node = self.topology.node(name)
            self.volume(name, "data")
            with (self.folder / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(node.command, stdout=log, stderr=log)
        for name in names or NAMES:
            self.until(f"{name} is ready", partial(self.component.probe, self.live, self.topology.node(name)))

    def kill(self, *names: str, number: int = signal.SIGKILL) -> None:
        for name in names:
            self.processes[name].send_signal(number)
        for name in names:
            self.processes.pop(name).wait(timeout=20)

    def wipe(self, *names: str) -> None:
        self.kill(*names)
        for name in names:
            shutil.rmtree(self.folder / name)
        self.start(*names)

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(timeout=20)

    @staticmethod
    def until(what: str, missing: Callable[[], object], seconds: float = 20.0) -> None:
        """Wait until `missing` returns None or False."""
        end = time.monotonic() + seconds
        while said := missing():
            assert time.monotonic() < end, f"{what}: {said}"
            time.sleep(0.05)

    # What the tests ask
    def steps(self) -> dict[str, Step]:
        return {
            step.name: Step(step.name, step.check, step.apply, tuple(n for n in step.requires if n not in NAMES))
            for step in self.component.steps(self.live)
        }

    def up(self) -> list[str]:
        """Initialize; returns the names of the steps that changed something."""
        outcomes = run_graph(list(self.steps().values()), Deadline(60), discard)
        return [outcome.name for outcome in outcomes if outcome.changed]

    def report(self) -> ClusterReport:
        return cast(ClusterReport, self.component.report(self.live).data)

    def views(self) -> tuple[NodeView, ...]:
        return observe(dict(zip(NAMES, endpoints(self.live), strict=True)), ADMIN, self.password)

    @property
    def password(self) -> str:
        return self.secrets["REDIS_ADMIN_PASSWORD"]

    def client(self, **options: Any) -> redis.RedisCluster:
        host, port = endpoints(self.live)[0]
        login = {"username": APPLICATION, "password": self.secrets["REDIS_APP_PASSWORD"], "decode_responses": True}
        return redis.RedisCluster(host=host, port=port, **{**login, **options})

    def node(self, name: str, **options: Any) -> redis.Redis:
        host, port = self.live.address(name, "client")
        return redis.Redis(host, port, **{"username": ADMIN, "password": self.password, **options})

    def fill(self, count: int = 300) -> None:
        with self.client() as client:
            for number in range(count):
                client.set(f"key:{number}", number)
            for primary in client.get_primaries():
                assert client.execute_command("WAIT", 1, 2000, target_nodes=primary) == 1
        for name in self.processes:  # written to the file, so that only the death of the machine could lose it
            self.until(f"{name} wrote its append-only file", partial(self._unwritten, name))

    def _unwritten(self, name: str) -> int:
        with self.node(name) as client:
            facts = client.info("persistence")
        return int(facts["aof_buffer_length"]) + int(facts["aof_rewrite_in_progress"])

    def kept(self, count: int = 300) -> int:
        with self.client() as client:
            return sum(client.get(f"key:{number}") == str(number) for number in range(count))

    def shard(self) -> tuple[str, str]:
        """A master and its replica, by name."""
        report = self.report()
        replica = next(node for node in report.nodes if node.role == "replica")
        assert replica.master is not None
        return replica.master, replica.name

    def healthy(self) -> ClusterReport:
        report = self.report()
        assert report.problems == ()
        assert (report.state, report.slots_covered) == ("ok", 16384)
        masters = {node.name for node in report.nodes if node.role == "master"}
        assert len(masters) == SHARDS
        assert {node.master for node in report.nodes if node.role == "replica"} == masters
        return report


def _free_ports() -> int:
    for first in range(27200, 28200, 10):
        try:
            for port in range(first, first + 6):
                for number in (port, port + 10000):
                    with socket.socket() as attempt:
                        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        attempt.bind(("127.0.0.1", number))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


@pytest.fixture
def blank(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path, _free_ports())
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.stop()


@pytest.fixture
def nodes(blank: Nodes) -> Nodes:
    """A whole cluster with 300 keys."""
    blank.up()
    blank.fill()
    return blank


def test_six_blank_nodes_become_a_cluster_and_a_second_run_writes_nothing(blank: Nodes) -> None:
    assert [problem.what for problem in blank.report().problems] == ["the nodes run, but no cluster was created"]
    assert blank.up() == ["redis-cluster.create", "redis-cluster.heartbeat-keys"]
    report = blank.healthy()
    assert report.failovers == 0

    def hidden() -> bool:
        with blank.client() as client:
            return len(client.get_replicas()) < SHARDS

    blank.until("clients see every replica", hidden)

    def written() -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        for name in NAMES:
            with blank.node(name, decode_responses=True) as client:
                stats = client.info("commandstats")
                cluster = {k: v["calls"] for k, v in stats.items() if "cluster|" in k and not k.endswith(READING)}
                found.append((client.info("persistence")["rdb_changes_since_last_save"], client.dbsize(), cluster))
        return found

    before = written()
    assert blank.up() == []
    assert written() == before


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.1, 0.5, 1.2])
def test_a_creation_that_was_killed_is_finished_by_the_next_run(blank: Nodes, delay: float) -> None:
    def kill_soon(process: subprocess.Popen[str]) -> None:
        time.sleep(delay)  # the moment of the kill is what this test varies
        process.kill()
        raise KeyboardInterrupt

    blank.during_create = kill_soon
    with pytest.raises(KeyboardInterrupt):
        blank.steps()["redis-cluster.create"].apply(Run(Deadline(60)))
    blank.during_create = lambda _: None
    blank.up()
    blank.healthy()


def test_slots_without_an_owner_that_hold_keys_elsewhere_are_shared_without_losing_a_key(blank: Nodes) -> None:
    with blank.node(NAMES[0]) as client:  # as if the creation had been cut after its first step, and used
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 5460)
        Nodes.until("the node serves", lambda: client.execute_command("CLUSTER INFO").get("cluster_state") != "ok")
        key = next(f"early:{number}" for number in range(100) if key_slot(f"early:{number}".encode()) < 5461)
        client.set(key, "kept")
    blank.up()
    blank.healthy()
    with blank.client() as cluster:
        assert cluster.get(key) == "kept"


def test_a_replica_that_lost_its_data_folder_comes_back_as_a_replica(nodes: Nodes) -> None:
    _, replica = nodes.shard()
    nodes.wipe(replica)
    nodes.up()
    assert next(node.role for node in nodes.healthy().nodes if node.name == replica) == "replica"
    assert nodes.kept() == 300


def test_a_master_that_lost_its_data_folder_comes_back_as_the_replica_of_its_promoted_replica(nodes: Nodes) -> None:
    master, replica = nodes.shard()
    nodes.wipe(master)
    nodes.up()
    report = nodes.healthy()
    assert {node.name: node.master for node in report.nodes}[master] == replica
    assert report.failovers and report.failovers >= 1
    assert nodes.kept() == 300
    assert nodes.up() == []


def test_a_replica_does_not_copy_the_emptiness_of_its_master_that_lost_its_data(nodes: Nodes) -> None:
    master, replica = nodes.shard()
    log = nodes.folder / f"{replica}.log"
    refused = log.read_text().count("Unable to AUTH to MASTER")
    nodes.wipe(master)
    nodes.kill(master)
    nodes.start(master)  # still blank, although it has a nodes.conf by now

    def not_tried() -> bool:
        return log.read_text().count("Unable to AUTH to MASTER") < refused + 2

    nodes.until("the replica tried to follow the blank node", not_tried)
    nodes.up()
    nodes.healthy()
    assert nodes.kept() == 300


def test_two_masters_that_lost_their_data_are_replaced_although_nobody_can_elect(nodes: Nodes) -> None:
    masters = [node.name for node in nodes.report().nodes if node.role == "master"]
    nodes.wipe(*masters[:2])
    nodes.up()
    nodes.healthy()
    assert nodes.kept() == 300


def test_a_master_and_its_replica_that_lost_their_data_make_an_empty_shard_and_the_others_keep_theirs(
    nodes: Nodes,
) -> None:
    master, replica = nodes.shard()
    slots = next(node.slots for node in nodes.report().nodes if node.name == master)
    view = next(view for view in nodes.views() if view.name == master)
    lost = sum(view.slots >> key_slot(f"key:{number}".encode()) & 1 for number in range(300))
    assert slots and lost
    nodes.wipe(master, replica)
    assert any("are served by nobody" in problem.what for problem in nodes.report().problems)
    nodes.up()
    nodes.healthy()
    assert nodes.kept() == 300 - lost
    nodes.fill()


def test_a_master_that_was_killed_is_replaced_and_follows_when_it_is_started_again(nodes: Nodes) -> None:
    master, replica = nodes.shard()
    nodes.kill(master)
    dead = nodes.report()
    assert [problem.where for problem in dead.problems if "does not answer" in problem.what] == [master]
    gone = next(node for node in dead.nodes if node.name == master)
    assert (gone.keys, gone.memory, gone.status) == (None, None, "down")
    assert any(f"{master} does not answer" in str(step.check()) for step in nodes.steps().values())

    def promoted() -> bool:
        return next(node for node in nodes.report().nodes if node.name == replica).role != "master"

    nodes.until("the replica is promoted", promoted)
    nodes.start(master)
    nodes.up()
    assert {node.name: node.master for node in nodes.healthy().nodes}[master] == replica
    assert nodes.kept() == 300


def test_all_nodes_killed_at_once_come_back_with_their_data(nodes: Nodes) -> None:
    nodes.kill(*NAMES)
    report = nodes.report()
    assert (report.state, report.slots_covered, report.failovers) == ("unknown", None, None)
    assert len(report.problems) == len(NAMES)
    nodes.start()
    nodes.up()
    nodes.healthy()
    assert nodes.kept() == 300


def test_flushed_nodes_are_still_a_cluster_and_get_their_heartbeat_keys_back(nodes: Nodes) -> None:
    for node in nodes.report().nodes:
        if node.role == "master":
            with nodes.node(node.name) as client:
                client.flushall()
    assert nodes.up() == ["redis-cluster.heartbeat-keys"]
    nodes.healthy()


def test_a_frozen_node_is_unknown_and_does_not_hold_up_the_report(nodes: Nodes) -> None:
    nodes.processes[NAMES[2]].send_signal(signal.SIGSTOP)
    try:
        start = time.monotonic()
        report = nodes.report()
        assert time.monotonic() - start < 2.5
        frozen = report.nodes[2]
        assert (frozen.status, frozen.keys) == ("silent", None)
    finally:
        nodes.processes[NAMES[2]].send_signal(signal.SIGCONT)
    nodes.up()
    nodes.healthy()


def test_mending_ends_with_the_time_of_the_command_or_when_it_is_given_up(nodes: Nodes) -> None:
    create = nodes.steps()["redis-cluster.create"]
    cancelled = threading.Event()
    nodes.processes[NAMES[2]].send_signal(signal.SIGSTOP)
    try:
        start = time.monotonic()
        with pytest.raises(StepError, match="not whole after 1 s"):
            create.apply(Run(Deadline(1)))
        threading.Timer(1, cancelled.set).start()
        with pytest.raises(StepError, match="given up"):
            create.apply(Run(Deadline(60), cancelled))
        assert time.monotonic() - start < 20
    finally:
        nodes.processes[NAMES[2]].send_signal(signal.SIGCONT)
    nodes.up()
    nodes.healthy()


def test_a_wrong_password_is_named_with_its_remedy_and_changes_nothing(nodes: Nodes) -> None:
    wrong = Secrets({**nodes.secrets.values, "REDIS_ADMIN_PASSWORD": "of-another-stack"})
    live = Live(nodes.settings, wrong, nodes.live.engine, nodes.topology)
    said = nodes.component.probe(live, nodes.topology.node(NAMES[0]))
    assert said is not None
    assert "refuses the password" in said
    assert ".env" in said
    report = nodes.component.report(live)
    assert {problem.where for problem in report.problems} == set(NAMES)
    assert all("password" in problem.what and ".env" in problem.remedy for problem in report.problems)
    create = nodes.component.steps(live)[0]
    with pytest.raises(StepError, match="refuses the password") as caught:
        create.apply(Run(Deadline(60)))
    assert ".env" in caught.value.remedy
    nodes.healthy()


def test_each_user_may_do_its_own_work_and_no_more(nodes: Nodes) -> None:
    with nodes.client() as client:
        client.set("{t}a", 1, ex=100)
        client.zadd("{t}z", {"x": 1})
        client.xadd("{t}s", {"a": 1})
        assert client.eval("return redis.call('get', KEYS[1])", 1, "{t}a") == "1"
        assert [list(reply) for reply in [client.mget("{t}a", "{t}b")]] == [["1", None]]
        assert client.publish("channel", "hello") == 0
        assert client.cluster_info(target_nodes=redis.RedisCluster.RANDOM)
        for forbidden in ("FLUSHALL", "KEYS *", "CONFIG GET *", "SHUTDOWN", "ACL LIST", "CLUSTER RESET"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*forbidden.split(), target_nodes=redis.RedisCluster.RANDOM)
    with nodes.node(NAMES[0], username=HEALTH, password="anything") as health:
        assert health.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            health.get("{t}a")
    login = {"username": REPLICATION_USER, "password": nodes.secrets["REDIS_REPLICATION_PASSWORD"]}
    with nodes.node(NAMES[0], **login) as replication, pytest.raises(redis.exceptions.NoPermissionError):
        replication.get("{t}a")
    with nodes.node(NAMES[0], username=None, password=None) as nobody, pytest.raises(redis.AuthenticationError):
        nobody.ping()


def test_the_health_check_of_a_node_tells_a_live_server_from_a_dead_one(nodes: Nodes) -> None:
    node = nodes.topology.node(NAMES[0])
    assert node.health is not None
    assert nodes.execute(node, node.health.command).exit_status == 0
    nodes.kill(NAMES[0])
    assert nodes.execute(node, node.health.command).exit_status != 0


def test_the_client_is_ready_to_use_and_shows_no_password(nodes: Nodes) -> None:
    client = nodes.component.client(nodes.live, nodes.topology.node(NAMES[0]))
    done = nodes.execute(
        nodes.topology.node(NAMES[0]), client.argv(("redis-cli", "get", "key:7")), environment=client.environment
    )
    assert done.stdout.strip() == "7"


def test_the_report_fits_a_terminal_of_80_columns(nodes: Nodes) -> None:
    table = nodes.component.report(nodes.live).tables[0]
    widths = [max(len(row[index]) for row in (table.columns, *table.rows)) for index in range(len(table.columns))]
    assert sum(widths) + 3 * (len(widths) - 1) <= 78
    assert len(table.caption) <= 100
    assert cluster_report(dict(zip(NAMES, endpoints(nodes.live), strict=True)), ADMIN, nodes.password).healthy
