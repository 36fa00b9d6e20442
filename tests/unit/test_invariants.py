"""Facts that must agree over several files, proven for both sites, several settings and every supported version."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shopfds_ops import data
from shopfds_ops.components.base import Live, Plan
from shopfds_ops.components.registry import COMPONENTS
from shopfds_ops.engines.compose import ComposeFiles
from shopfds_ops.engines.images import registry
from shopfds_ops.engines.local import LocalEngine
from shopfds_ops.engines.packages import Installed
from shopfds_ops.engines.sites import DockerSite, LocalSite
from shopfds_ops.health import gates
from shopfds_ops.secrets import PURPOSES, Secrets
from shopfds_ops.settings import REDIS_BUS_OFFSET, REDIS_NODES, Configuration, Settings
from shopfds_ops.stack import Stack
from shopfds_ops.steps import Deadline, check_graph
from shopfds_ops.topology import Node, Site, Topology

VARIANTS: Mapping[str, dict[str, Any]] = {
    "defaults": {},
    "offset": {"ports": {"offset": 1300}},
    "other-ports": {
        "project": "second-shop",
        "ports": {"postgres_primary": 6001, "postgres_replica": 6002, "redis": 8100, "rabbitmq": 6003, "offset": 20},
        "postgres": {"database": "shop_two", "max_connections": 50, "memory": 300, "heartbeat_seconds": 2},
        "redis": {"maxmemory": "100MB", "memory": 200, "node_timeout_ms": 2000},
        "rabbitmq": {"vhost": "other", "user": "somebody", "memory": 512},
    },
    "highest": {"ports": {"offset": 65535 - 25772}},
}
VERSIONS = {
    "oldest": {"postgres": (14, 5), "redis": (6, 2, 6), "rabbitmq": (3, 9, 13)},
    "debian": {"postgres": (15, 18), "redis": (7, 0, 15), "rabbitmq": (3, 10, 8)},
    "newest": {"postgres": (17, 2), "redis": (8, 0, 1), "rabbitmq": (4, 1, 0)},
}
SITES = ("local", "docker")
PASSWORDS = Secrets({name: f"secret+Value/of-{name.lower()}" for name in PURPOSES})


@dataclass(frozen=True)
class World:
    """One stack as it would be: nothing runs, everything is rendered."""

    stack: Stack
    site: Site
    topology: Topology
    files: Mapping[str, str]
    """Rendered files of this site, by their names below its folder."""

    @property
    def settings(self) -> Settings:
        return self.stack.settings

    @property
    def plan(self) -> Plan:
        return Plan(self.settings, self.site)

    @property
    def readers(self) -> tuple[Node, ...]:
        """Whatever reads files and secrets: the nodes and the jobs."""
        return (*self.topology, *self.topology.jobs)

    def setting(self, file: str, name: str) -> str:
        """The value of `name` in a file of lines `name = value`; exactly one line may set it."""
        [value] = re.findall(rf"^{re.escape(name)} *= *(.*)$", self.files[file], re.MULTILINE)
        return str(value).strip("'")


def images(versions: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    return {server: f"{server}:{'.'.join(map(str, version))}" for server, version in versions.items()}


@pytest.fixture(scope="module", params=[f"{s}-{v}-{n}" for s, v, n in itertools.product(SITES, VARIANTS, VERSIONS)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    kind = request.param.split("-")[0]
    versions = VERSIONS[request.param.rpartition("-")[2]]
    variant = VARIANTS[request.param.removeprefix(f"{kind}-").rpartition("-")[0]]
    project = tmp_path_factory.mktemp("project")
    settings = Settings.model_validate(variant | {"images": images(versions), "data": project / "data"})
    stack = Stack(Configuration(project, settings, {}))
    engine = LocalEngine(project, settings)
    engine.installed = {name: Installed(name, version, Path("/opt") / name) for name, version in versions.items()}
    engine.site = LocalSite(engine.folder, settings.bind, versions)
    # What `Stack` would find out about this machine, given instead.
    compose = ComposeFiles(project, settings, registry(settings.images))
    stack.__dict__ |= {"choice": SimpleNamespace(engine=engine, layouts=(compose, engine)), "secrets": PASSWORDS}
    site: Site = engine.site if kind == "local" else DockerSite(registry(settings.images))
    plan = Plan(settings, site)
    topology = Topology(
        tuple(node for component in COMPONENTS for node in component.nodes(plan)),
        tuple(job for component in COMPONENTS for job in component.jobs(plan)),
    )
    rendered = stack.rendered()
    ours = {path: content.decode() for path, content in rendered.items() if path.startswith(f"{kind}/")}
    return World(stack, site, topology, {path.removeprefix(f"{kind}/"): text for path, text in ours.items()})


# -- files -------------------------------------------------------------------------------------------------------


def test_every_file_that_a_node_reads_is_rendered_and_every_rendered_file_is_read(world: World) -> None:
    read = {source for node in world.readers for source in node.files}
    assert read <= set(world.files)
    assert set(world.files) - read <= {"supervisord.conf", ".env.example", "docker-compose.yml"}


def test_the_files_have_the_names_that_the_task_list_gives_them(world: World) -> None:
    assert {"postgres/master.conf", "postgres/replica.conf", "redis/redis-cluster.conf"} <= set(world.files)
    assert "docker/.env.example" in world.stack.rendered()


def test_rendering_again_gives_the_same_bytes(world: World) -> None:
    assert world.stack.rendered() == world.stack.rendered()


def test_everything_rendered_is_ascii_and_ends_with_a_line_end(world: World) -> None:
    for path, text in world.files.items():
        assert text.isascii(), path
        assert text.endswith("\n"), path
        assert not re.search(r"\{\{|\}\}|\{%|%\}|\bNone\b|Undefined|<[a-z_.]+ object", text), path


def test_every_path_to_a_file_or_secret_in_commands_and_environments_is_one_that_the_node_names(world: World) -> None:
    for node in world.readers:
        configs = {world.site.config(source) for source in node.files}
        secrets = {world.site.secret(node.name, name) for name in node.secrets}
        folders = (world.site.config(""), world.site.secret(node.name, ""))
        used = [*node.command, *node.environment.values()]
        for path in re.findall(rf"(?:{'|'.join(map(re.escape, folders))})[\w./-]+", " ".join(used)):
            assert path in configs | secrets, f"{node.name} uses {path}"


# -- nodes -------------------------------------------------------------------------------------------------------


def test_names_are_unique_and_every_dependency_exists_before_its_dependant(world: World) -> None:
    names = [node.name for node in world.readers]
    assert len(set(names)) == len(names)
    for node in world.readers:
        assert all(names.index(need) < names.index(node.name) for need in node.depends_on)


def test_every_secret_file_that_a_node_names_has_its_content_from_its_component(world: World) -> None:
    for component in COMPONENTS:
        contents = component.secret_files(world.plan, PASSWORDS)
        wanted = {secret for node in world.readers if node.component == component.name for secret in node.secrets}
        assert wanted == set(contents)
        assert all(content.endswith("\n") and content.isascii() for content in contents.values())


def test_no_two_components_have_a_secret_file_of_the_same_name(world: World) -> None:
    names = [name for component in COMPONENTS for name in component.secret_files(world.plan, PASSWORDS)]
    assert len(names) == len(set(names))


def test_every_password_is_in_force_in_some_secret_file(world: World) -> None:
    """As it is, or by its hash: a password that is changed must change the file."""
    for name in PURPOSES:
        other = Secrets({**PASSWORDS.values, name: "something-else"})
        before = [component.secret_files(world.plan, PASSWORDS) for component in COMPONENTS]
        assert before != [component.secret_files(world.plan, other) for component in COMPONENTS], name


def test_no_secret_is_in_a_rendered_file_a_command_or_an_environment(world: World) -> None:
    shown: Iterator[str] = itertools.chain(
        world.files.values(),
        (part for node in world.readers for part in node.command),
        (value for node in world.readers for value in node.environment.values()),
        (part for node in world.readers if node.health for part in node.health.command),
    )
    for text in shown:
        assert not any(password in text for password in PASSWORDS.values.values())


def test_the_clients_that_exec_offers_have_no_secret_on_their_command_line(world: World) -> None:
    live = Live(world.settings, PASSWORDS, world.stack.engine, world.topology)
    by_name = {component.name: component for component in COMPONENTS}
    for node in world.topology:
        argv = " ".join(by_name[node.component].client(live, node).argv(()))
        assert not any(password in argv for password in PASSWORDS.values.values())


def test_memory_is_the_sum_of_what_the_settings_give_each_server(world: World) -> None:
    settings = world.settings
    heartbeat = world.topology.node("postgres-heartbeat").resources.memory
    expected = 2 * settings.postgres.memory + heartbeat + REDIS_NODES * settings.redis.memory + settings.rabbitmq.memory
    assert world.topology.memory == expected


def test_no_server_is_told_to_use_more_memory_than_its_node_may(world: World) -> None:
    def mib(text: str) -> int:
        number, unit = re.fullmatch(r"(\d+) ?(MB|GB|MiB)", text).groups()  # type: ignore[union-attr]
        return int(number) * (1024 if unit == "GB" else 1)

    [redis] = re.findall(r"^maxmemory (\S+)$", world.files["redis/redis-cluster.conf"], re.MULTILINE)
    assert mib(redis) < world.topology.node("redis-node-1").resources.memory
    assert mib(world.setting("postgres/master.conf", "shared_buffers")) < world.settings.postgres.memory
    watermark = mib(world.setting("rabbitmq/rabbitmq.conf", "vm_memory_high_watermark.absolute"))
    assert watermark < world.settings.rabbitmq.memory


# -- ports -------------------------------------------------------------------------------------------------------


def test_no_port_belongs_to_two_nodes_and_all_are_those_of_the_settings(world: World) -> None:
    numbers = [port.number for node in world.topology for port in node.ports]
    assert sorted(numbers) == sorted(number for _, number in world.settings.ports.numbers())
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) <= 65535


def test_every_port_in_a_file_a_command_or_an_environment_belongs_to_a_node(world: World) -> None:
    known = {port.number for node in world.topology for port in node.ports}
    pattern = re.compile(r"(?i)(?:port\b['\"]?[ =]+['\"]?|_port=['\"]?|[\w.]:)(\d{4,5})\b(?![.:])")
    found: set[int] = set()
    for path, text in world.files.items():
        lines = [line for line in text.splitlines() if not line.lstrip().startswith(("#", ";", "--"))]
        for number in map(int, pattern.findall("\n".join(lines))):
            assert number in known, f"{number} in {path}"
            found.add(number)
    for node in world.readers:
        health = node.health.command if node.health else ()
        words = [*node.command, *health, *(f"{name}={value}" for name, value in node.environment.items())]
        for number in map(int, pattern.findall(" ".join(words))):
            assert number in known, f"{number} of {node.name}"
            found.add(number)
    bus = {world.topology.node(name).port("bus") for name in world.topology.names if name.startswith("redis-node")}
    assert found == known - bus  # so the pattern does see them; Redis derives the bus from the client's port


def test_postgresql_listens_where_its_nodes_say_and_the_replica_asks_the_primary(world: World) -> None:
    primary = world.topology.node("postgres-primary").port("postgres")
    replica = world.topology.node("postgres-replica").port("postgres")
    assert int(world.setting("postgres/master.conf", "port")) == primary
    assert int(world.setting("postgres/replica.conf", "port")) == replica
    conninfo = dict(word.split("=", 1) for word in world.setting("postgres/replica.conf", "primary_conninfo").split())
    assert conninfo["host"] == world.site.host("postgres-primary")
    assert int(conninfo["port"]) == primary
    assert "password" not in conninfo
    node = world.topology.node("postgres-replica")
    assert conninfo["passfile"] == node.environment["PASSFILE"]
    assert node.environment["REPLICATOR_PASSFILE"] == world.site.secret(node.name, "postgres-passfile")
    assert Path(conninfo["passfile"]).parent == Path(world.site.volume(node.name, "data", node.image))
    assert dict(word.split("=", 1) for word in node.environment["PRIMARY_CONNINFO"].split()) == conninfo
    assert node.environment["SLOT"] == world.setting("postgres/replica.conf", "primary_slot_name")
    heartbeat = world.topology.node("postgres-heartbeat").environment
    assert (heartbeat["PGHOST"], int(heartbeat["PGPORT"])) == (world.site.host("postgres-primary"), primary)


def test_pg_hba_lets_in_exactly_those_who_connect_and_only_with_a_password(world: World) -> None:
    rules = [line.split() for line in world.files["postgres/pg_hba.conf"].splitlines() if not line.startswith("#")]
    assert all(rule[0] == "host" and rule[-1] == "scram-sha-256" for rule in rules)
    assert {rule[3] for rule in rules} == {world.site.peers}
    allowed = {(rule[1], user) for rule in rules for user in rule[2].split(",")}
    database = world.settings.postgres.database
    assert allowed == {
        ("replication", "replicator"),
        (database, "shopfds"),
        (database, "monitor"),
        ("all", "postgres"),
    }
    conninfo = world.setting("postgres/replica.conf", "primary_conninfo")
    assert "user=replicator" in conninfo
    assert world.topology.node("postgres-heartbeat").environment["PGUSER"] == "monitor"
    assert world.topology.node("postgres-heartbeat").environment["PGDATABASE"] == database


def test_both_postgresql_nodes_read_the_same_rules_and_share_what_either_needs_as_primary(world: World) -> None:
    for name in ("hba_file", "listen_addresses", "max_connections", "max_wal_senders", "wal_level"):
        assert world.setting("postgres/master.conf", name) == world.setting("postgres/replica.conf", name)
    assert world.setting("postgres/master.conf", "hba_file") == world.site.config("postgres/pg_hba.conf")
    assert world.setting("postgres/master.conf", "listen_addresses") == world.site.listen


def test_redis_nodes_take_their_ports_folders_and_users_from_the_command(world: World) -> None:
    nodes = world.topology.of("redis-cluster")
    assert len(nodes) == REDIS_NODES
    for index, node in enumerate(nodes):
        flags = {flag: value for flag, value in itertools.pairwise(node.command) if flag.startswith("--")}
        assert "redis-server" in node.command
        assert world.site.config("redis/redis-cluster.conf") in node.command
        assert int(flags["--port"]) == node.port("client") == world.settings.ports.at("redis", index)
        assert node.port("bus") == node.port("client") + REDIS_BUS_OFFSET
        assert flags["--dir"] == world.site.volume(node.name, "data", node.image)
        assert flags["--bind"] == world.site.listen
    assert not re.search(
        r"^(port|bind|dir|aclfile|requirepass) ", world.files["redis/redis-cluster.conf"], re.MULTILINE
    )


def test_rabbitmq_listens_where_its_node_says(world: World) -> None:
    node, file = world.topology.node("rabbitmq"), "rabbitmq/rabbitmq.conf"
    assert world.setting(file, "listeners.tcp.1") == f"{world.site.listen}:{node.port('amqp')}"
    assert int(world.setting(file, "management.tcp.port")) == node.port("management")
    assert int(world.setting(file, "prometheus.tcp.port")) == node.port("prometheus")
    assert int(node.environment["RABBITMQ_DIST_PORT"]) == node.port("distribution")
    assert int(node.environment["ERL_EPMD_PORT"]) == node.port("epmd")
    assert world.setting(file, "load_definitions") in {world.site.secret("rabbitmq", name) for name in node.secrets}
    assert world.setting(file, "definitions.local.path") == world.site.config("rabbitmq/definitions.json")


def test_rabbitmq_definitions_agree_with_each_other_and_know_no_guest(world: World) -> None:
    text = world.files["rabbitmq/definitions.json"]
    found = json.loads(text)
    vhost = world.settings.rabbitmq.vhost
    exchanges = {exchange["name"] for exchange in found["exchanges"]}
    queues = {queue["name"] for queue in found["queues"]}
    assert [item["name"] for item in found["vhosts"]] == [vhost]
    assert all(
        item["vhost"] == vhost for kind in ("exchanges", "queues", "bindings", "policies") for item in found[kind]
    )
    assert {binding["source"] for binding in found["bindings"]} == exchanges
    assert {binding["destination"] for binding in found["bindings"]} == queues
    assert {"ecommerce", "fds"} < queues
    for policy in found["policies"]:
        assert any(re.search(policy["pattern"], queue) for queue in queues)
        assert policy["definition"].get("dead-letter-exchange", next(iter(exchanges))) in exchanges
    assert "users" not in found
    assert "guest" not in text


# -- supervisor --------------------------------------------------------------------------------------------------


def test_supervisord_has_one_program_for_each_node_with_its_command_and_environment(world: World) -> None:
    if world.site.name != "local":
        assert "supervisord.conf" not in world.files
        return
    programs = world.files["supervisord.conf"].split("[program:")[1:]
    assert [program.partition("]")[0] for program in programs] == list(world.topology.names)
    for program, node in zip(programs, world.topology, strict=True):
        [command] = re.findall(r"^command = (.*)$", program, re.MULTILINE)
        first, *rest = shlex.split(command.replace("%%", "%"))
        assert Path(first).name == node.command[0]
        assert tuple(rest) == node.command[1:]
        [environment] = re.findall(r"^environment = (.*)$", program, re.MULTILINE)
        assert all(f'{name}="' in environment for name in node.environment)
        assert f'SHOPFDS_NODE="{node.name}"' in environment


# -- steps -------------------------------------------------------------------------------------------------------


def test_every_step_requires_only_what_exists_and_is_listed_after_it(world: World) -> None:
    live = Live(world.settings, PASSWORDS, world.stack.engine, world.topology)
    steps = [step for component in COMPONENTS for step in component.steps(live)]
    steps += data.steps(live)
    waits = gates(live, COMPONENTS, tuple(world.topology), Deadline(1))
    check_graph([*waits, *steps])
    present = {gate.name for gate in waits}
    assert present == set(world.topology.names)
    for step in steps:
        assert present.issuperset(step.requires), step.name
        assert step.name not in present
        present.add(step.name)


def test_no_component_is_called_like_a_node_of_another_one(world: World) -> None:
    owners = {component.name: component.name for component in COMPONENTS}
    assert all(owners.get(node.name, node.component) == node.component for node in world.topology)
    assert {node.component for node in world.topology} == set(owners)
