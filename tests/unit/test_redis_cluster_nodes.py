"""The Redis Cluster component before anything runs: nodes, users, and what is read from the answers of servers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.cluster import judge
from services.common.cluster_nodes import ALL_SLOTS, NodeView, SlotRange, parse_info, parse_nodes
from shopfds_ops.components.base import Plan
from shopfds_ops.components.redis_cluster import RedisCluster
from shopfds_ops.components.redis_repair import plan
from shopfds_ops.secrets import PURPOSES, Secrets
from shopfds_ops.settings import Settings
from shopfds_ops.topology import Node, Site
from tests.unit.redis_model import ADDRESSES, NAMES, Model

SECRETS = Secrets({name: f"secret-{index}" for index, name in enumerate(PURPOSES)})
TEMPLATE = Path(__file__).parents[2] / "templates" / "redis" / "redis-cluster.conf.j2"
ID = "07c37dfeb235213a872192d90877d0cd55635b91"
MASTER_ID = "e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca"


class Elsewhere:
    """A site in which everything has a path of its own."""

    name = "elsewhere"
    listen = "0.0.0.0"  # noqa: S104
    peers = "10.0.0.0/24"

    def host(self, node: str) -> str:
        return node

    def volume(self, node: str, volume: str, image: str = "") -> str:
        return f"/volumes/{node}/{volume}"

    def config(self, source: str) -> str:
        return f"/config/{source}"

    def secret(self, node: str, name: str) -> str:
        return f"/secrets/{node}/{name}"

    def version(self, server: str) -> tuple[int, ...]:
        return (7, 0)


PLAN = Plan(Settings(), cast(Site, Elsewhere()))


def nodes() -> list[Node]:
    return list(RedisCluster().nodes(PLAN))


def whole() -> Model:
    model = Model()
    for _ in range(4):
        for action in plan(model.views(), ADDRESSES).actions:
            model.apply(action)
        model.gossip()
    return model


def test_six_nodes_listen_on_ports_of_their_own() -> None:
    ports = [node.port("client") for node in nodes()]
    assert ports == list(range(7000, 7006))
    assert [node.port("bus") for node in nodes()] == [port + 10000 for port in ports]
    for node in nodes():
        assert [port.name for port in node.ports if port.published] == ["client"]
        assert "/config/redis/redis-cluster.conf" in node.command
        flags = dict(zip(node.command[8::2], node.command[9::2], strict=True))
        assert flags["--port"] == str(node.port("client"))
        assert flags["--bind"] == "0.0.0.0"  # noqa: S104
        assert flags["--dir"] == f"/volumes/{node.name}/data"


def test_no_node_carries_a_secret_and_each_finds_its_secret_files() -> None:
    component = RedisCluster()
    files = component.secret_files(PLAN, SECRETS)
    for node in nodes():
        words = " ".join([*node.command, *node.environment.values(), *(node.health.command if node.health else ())])
        assert not any(secret in words for secret in SECRETS.values.values())
        assert set(node.secrets) == set(files) - {"redis-admin"}, "the admin's password is for the job that creates"
        assert all(f"/secrets/{node.name}/{name}" in node.command for name in node.secrets)


def test_the_acl_file_holds_hashes_and_no_password() -> None:
    text = RedisCluster().secret_files(PLAN, SECRETS)["redis-users.acl"]
    for name in ("REDIS_ADMIN_PASSWORD", "REDIS_APP_PASSWORD", "REDIS_REPLICATION_PASSWORD"):
        assert SECRETS[name] not in text
        assert hashlib.sha256(SECRETS[name].encode()).hexdigest() in text
    assert "user default off" in text


def test_the_configuration_holds_no_port_and_no_secret_and_what_the_settings_say() -> None:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701
    text = environment.from_string(TEMPLATE.read_text()).render(settings=PLAN.settings, site=PLAN.site)
    directives = dict(line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#"))
    assert directives["cluster-node-timeout"] == str(PLAN.settings.redis.node_timeout_ms)
    assert directives["maxmemory"] == PLAN.settings.redis.maxmemory
    assert directives["cluster-require-full-coverage"] == "no"
    assert not {"port", "bind", "requirepass", "masterauth", "user"} & set(directives)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:30004@31004",
        "127.0.0.1:30004@31004,redis-node-4",
        "127.0.0.1:30004@31004,,shard-id=69bc0807",
        "::1:30004@31004",
    ],
)
def test_a_replica_is_read_from_the_line_of_any_version(address: str) -> None:
    (peer,) = parse_nodes(f"{ID} {address} slave {MASTER_ID} 0 1426238317239 4 connected\n")
    assert (peer.host, peer.port) in (("127.0.0.1", 30004), ("::1", 30004))
    assert (peer.id, peer.master_id, peer.epoch, peer.connected, peer.failing) == (ID, MASTER_ID, 4, True, False)


def test_a_master_is_read_with_its_slots_and_those_that_move() -> None:
    line = f"{ID} 10.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-5460 9000 [93-<-{MASTER_ID}] [77->-{MASTER_ID}]"
    (peer,) = parse_nodes(line)
    assert peer.slots == (SlotRange(0, 5460), SlotRange(9000, 9000))
    assert peer.moving == 2
    assert peer.master_id == ""


def test_a_node_without_address_and_one_in_handshake_are_read() -> None:
    text = (
        f"{ID} :0@0 master,noaddr - 1426238316232 0 2 disconnected 0-1\n"
        f"{MASTER_ID} 10.0.0.2:7001@17001 handshake - 0 0 0 connected\n"
    )
    gone, greeted = parse_nodes(text)
    assert (gone.host, gone.port, gone.connected) == ("", 0, False)
    assert greeted.greeting


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,20}", fullmatch=True), st.from_regex(r"[a-z0-9:,=]{0,20}", fullmatch=True))
)
def test_info_is_read_whatever_its_values_contain(facts: dict[str, str]) -> None:
    text = "# Section\r\n" + "".join(f"{name}:{value}\r\n" for name, value in facts.items())
    assert parse_info(text) == facts


def test_a_whole_cluster_is_reported_healthy() -> None:
    report = judge(whole().views())
    assert report.healthy
    assert (report.state, report.slots_covered, report.failovers) == ("ok", 16384, 0)
    assert sorted(node.role for node in report.nodes) == ["master"] * 3 + ["replica"] * 3
    assert all(node.master in NAMES for node in report.nodes if node.role == "replica")


def test_blank_nodes_are_one_problem_not_six() -> None:
    (problem,) = judge(Model().views()).problems
    assert "no cluster was created" in problem.what
    assert "shopfds init redis-cluster" in problem.remedy


def test_a_silent_node_has_unknown_figures_and_what_the_others_say_of_it() -> None:
    model = whole()
    views = list(model.views())
    name, (host, port) = NAMES[3], ADDRESSES[NAMES[3]]
    views[3] = NodeView(name, host, port, "silent", "timed out")
    report = judge(views)
    node = report.nodes[3]
    assert (node.keys, node.memory, node.uptime, node.link) == (None, None, None, None)
    assert (node.role, node.id) == ("replica", model.servers[name].id)
    assert [problem.where for problem in report.problems] == [name]


def test_nothing_is_claimed_of_a_cluster_that_does_not_answer() -> None:
    views = [NodeView(name, host, port, "down", "connection refused") for name, (host, port) in ADDRESSES.items()]
    report = judge(views)
    assert (report.state, report.slots_covered, report.failovers, report.current_epoch) == ("unknown", None, None, None)
    assert {problem.where for problem in report.problems} == set(NAMES)


def test_a_lost_shard_is_a_problem_that_names_the_slots_and_the_way_back() -> None:
    model = whole()
    lost = model.servers[NAMES[0]]
    replica = next(server.name for server in model.servers.values() if server.master == lost.id)
    model.wipe(lost.name)
    model.wipe(replica)
    report = judge(model.views())
    assert report.slots_covered == 16384 - 5461
    (problem,) = [problem for problem in report.problems if "served by nobody" in problem.what]
    assert "0-5460" in problem.what
    assert "blacklist rebuild" in problem.remedy
    assert model.owned != ALL_SLOTS


def test_a_lost_replica_is_named_once_and_not_by_each_of_the_others() -> None:
    model = whole()
    name = next(server.name for server in model.servers.values() if server.master)
    model.wipe(name)
    problems = judge(model.views()).problems
    assert [problem.where for problem in problems if "knows no cluster" in problem.what] == [name]
    assert len([problem for problem in problems if "no longer exist" in problem.what]) == 1
    assert not any("is not known to" in problem.what for problem in problems)
