"""The Compose file says what the topology says, agrees with itself, and stays the same where it has to."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shopfds_ops.engines.compose import FILES_LABEL, FIRST_ADDRESS, ComposeFiles, Origin, origin, quoted
from shopfds_ops.engines.images import contract, recorded
from shopfds_ops.settings import Settings
from shopfds_ops.topology import HealthCheck, Network, Node, Topology
from tests.unit.composed import CASES, IMAGES, VARIANTS, Composed, compose, composed


@pytest.fixture(scope="module", params=CASES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Composed:
    return compose(request.param, tmp_path_factory.mktemp("project"))


def mounts(entries: list[dict[str, str]]) -> dict[str, str]:
    """The `configs` or `secrets` of a service: name -> where it is mounted."""
    return {entry["source"]: entry["target"] for entry in entries}


# -- nodes and services ------------------------------------------------------------------------------------------


def test_every_node_and_every_job_is_a_service_and_nothing_else_is(world: Composed) -> None:
    assert list(world.services) == [node.name for node in world.nodes]
    assert len(world.topology.jobs) == 1


def test_a_service_runs_the_command_of_its_node_whatever_its_image_would_run(world: Composed) -> None:
    for node, service in world.pairs():
        assert tuple(service["entrypoint"]) == node.command
        assert "command" not in service
        assert service.get("environment", {}) == dict(node.environment)


def test_a_service_runs_the_image_of_its_server_as_the_user_that_owns_the_data_folder_there(world: Composed) -> None:
    for node, service in world.pairs():
        contract = world.place.images.contract(node.image)
        assert service["image"] == world.place.images.references[node.image]
        assert service["user"] == f"{contract.uid}:{contract.gid}"


def test_offline_images_are_never_looked_for_in_a_registry(world: Composed) -> None:
    for service in world.services.values():
        assert service.get("pull_policy") == ("never" if world.place.images.kind == "offline" else None)


def test_a_health_check_is_the_one_of_the_node_in_words_that_old_engines_know(world: Composed) -> None:
    for node, service in world.pairs():
        assert node.health is not None
        found = service["healthcheck"]
        assert found.keys() == {"test", "interval", "timeout", "start_period", "retries"}
        assert found["test"] == ["CMD", *node.health.command]
        for name in ("interval", "timeout", "start_period"):
            assert found[name] == f"{getattr(node.health, name):g}s"


def test_a_service_waits_until_what_it_depends_on_is_healthy(world: Composed) -> None:
    for node, service in world.pairs():
        assert service.get("depends_on", {}) == {need: {"condition": "service_healthy"} for need in node.depends_on}


def test_a_service_that_needs_one_without_a_health_check_waits_only_for_its_start(tmp_path: Path) -> None:
    first = Node(name="a", component="x", role="node", image="redis", user="redis", command=("true",))
    second = replace(first, name="b", depends_on=("a",))
    assert conditions(tmp_path, first, second) == {"a": "service_started"}
    checked = replace(first, health=HealthCheck(command=("true",)))
    assert conditions(tmp_path, checked, second) == {"a": "service_healthy"}


def conditions(project: Path, *nodes: Node) -> dict[str, str]:
    """What the last of these nodes waits for."""
    [source] = ComposeFiles(project, Settings(), IMAGES["registry"]).sources(Topology(nodes), {})
    return dict(source.variables["services"][-1].conditions)


def test_limits_and_stops_are_those_of_the_node_and_memory_sums_up(world: Composed) -> None:
    for node, service in world.pairs():
        assert service["mem_limit"] == f"{node.resources.memory}m"
        assert service["cpus"] == node.resources.cpus
        assert service["pids_limit"] == node.resources.pids
        shared = node.resources.shared_memory
        assert service.get("shm_size") == (f"{shared}m" if shared else None)
        assert service["stop_signal"] == node.stop_signal
        assert service["stop_grace_period"] == f"{node.stop_timeout:g}s"
    total = sum(int(world.services[node.name]["mem_limit"].removesuffix("m")) for node in world.topology)
    assert total == world.topology.memory


# -- ports, files, volumes ---------------------------------------------------------------------------------------


def test_published_ports_are_those_of_the_topology_and_no_two_meet(world: Composed) -> None:
    found = [port for service in world.services.values() for port in service.get("ports", [])]
    wanted = [port.number for node in world.topology for port in node.ports if port.published]
    assert found == [f"{world.settings.bind}:{number}:{number}" for number in wanted]
    assert len(set(found)) == len(found)


def test_every_file_that_is_mounted_is_rendered_or_is_a_secret_file_and_lies_where_the_node_looks(
    world: Composed,
) -> None:
    site = world.place.site
    for node, service in world.pairs():
        configs, secrets = mounts(service["configs"]), mounts(service["secrets"])
        files = {name: world.document["configs"][name]["file"].removeprefix("./") for name in configs}
        assert {files[name]: target for name, target in configs.items()} == {
            source: site.config(source) for source in node.files
        }
        assert set(files.values()) <= set(world.files)
        assert secrets == {name: site.secret(node.name, name) for name in node.secrets}
        assert set(secrets) <= set(world.secret_files)


def test_what_the_top_of_the_file_declares_is_what_services_use(world: Composed) -> None:
    used: dict[str, set[str]] = {"configs": set(), "secrets": set(), "networks": set(), "volumes": set()}
    for service in world.services.values():
        used["configs"] |= mounts(service["configs"]).keys()
        used["secrets"] |= mounts(service["secrets"]).keys()
        used["networks"] |= service["networks"].keys()
        used["volumes"] |= {volume.partition(":")[0] for volume in service.get("volumes", [])}
    for kind, names in used.items():
        assert set(world.document[kind]) == names
    for name, entry in world.document["secrets"].items():
        assert entry == {"file": f"./secrets/{name}"}


def test_every_volume_belongs_to_one_node_and_lies_where_its_image_keeps_data(world: Composed) -> None:
    found: list[str] = []
    for node, service in world.pairs():
        folder = world.place.images.contract(node.image).data
        names = [world.place.volume(node.name, volume) for volume in node.volumes]
        assert service.get("volumes", []) == [f"{name}:{folder}" for name in names]
        found += names
    assert sorted(found) == sorted(world.document["volumes"])
    assert len(set(found)) == len(found)


def test_a_container_without_a_volume_gets_none_from_its_image_either(world: Composed) -> None:
    """An official image declares its data folder as a volume, and Docker makes one where nothing is mounted there."""
    for node, service in world.pairs():
        folder = world.place.images.contract(node.image).data
        covered = {
            entry.split(":")[0]
            for entry in [*service["tmpfs"], *(v.partition(":")[2] for v in service.get("volumes", []))]
        }
        assert folder in covered


# -- networks ----------------------------------------------------------------------------------------------------


def test_a_service_answers_in_each_of_its_networks_to_the_name_by_which_others_call_it_there(world: Composed) -> None:
    for node, service in world.pairs():
        assert list(service["networks"]) == [network.name for network in node.networks]
        for network in node.networks:
            assert service["networks"][network.name]["aliases"] == [world.place.site.host(node.name, network)]
    assert {"redis-node-6.redis-cluster"} == set(world.services["redis-node-6"]["networks"]["redis-cluster"]["aliases"])


def test_nodes_that_name_each_other_share_a_network(world: Composed) -> None:
    talk: set[tuple[str, str]] = set()
    for node, service in world.pairs():
        words = " ".join([*service["entrypoint"], *service.get("environment", {}).values()])
        for other in world.topology:
            for name, network in re.findall(rf"(?<![\w-])({other.name})(?:\.([a-z-]+))?(?![\w-])", words):
                if name == node.name:
                    continue
                shared = service["networks"].keys() & world.services[name]["networks"].keys()
                assert shared
                assert not network or network in shared
                talk.add((node.name, name))
    assert {("postgres-replica", "postgres-primary"), ("redis-cluster-create", "redis-node-1")} <= talk


def test_members_of_a_steady_network_have_addresses_of_their_own_that_docker_gives_to_nobody_else(
    world: Composed,
) -> None:
    [config] = world.document["networks"]["redis-cluster"]["ipam"]["config"]
    subnet, dynamic = ipaddress.IPv4Network(config["subnet"]), ipaddress.IPv4Network(config["ip_range"])
    assert subnet == world.place.subnet
    assert dynamic.subnet_of(subnet)
    members = [node for node in world.topology if "redis-cluster" in world.services[node.name]["networks"]]
    found = [
        ipaddress.IPv4Address(world.services[node.name]["networks"]["redis-cluster"]["ipv4_address"])
        for node in members
    ]
    assert [int(address) - int(subnet.network_address) for address in found] == list(
        range(FIRST_ADDRESS, FIRST_ADDRESS + len(members))
    )
    assert not any(address in dynamic for address in found)
    for job in world.topology.jobs:
        assert "ipv4_address" not in world.services[job.name]["networks"]["redis-cluster"]


def test_only_the_steady_network_has_addresses(world: Composed) -> None:
    addressed = {
        network
        for service in world.services.values()
        for network, member in service["networks"].items()
        if "ipv4_address" in member
    }
    given = {name for name, entry in world.document["networks"].items() if "ipam" in entry}
    assert addressed == given == {"redis-cluster"}


def test_addresses_stay_whatever_other_setting_changes(tmp_path: Path) -> None:
    other = {**VARIANTS["other"], "docker": {}, "project": "shopfds"}
    one, two = (composed(Settings.model_validate(settings), IMAGES["registry"], tmp_path) for settings in ({}, other))
    three = composed(Settings(), IMAGES["offline"], tmp_path)

    def networks(world: Composed) -> list[Any]:
        return [service["networks"] for service in world.services.values()]

    assert networks(one) == networks(two) == networks(three)
    assert one.document["networks"] == two.document["networks"] == three.document["networks"]


def test_two_steady_networks_are_refused_since_there_is_one_subnet(tmp_path: Path) -> None:
    networks = (Network(name="one", steady=True), Network(name="two", steady=True))
    node = Node(name="a", component="x", role="node", image="redis", user="redis", command=("true",), networks=networks)
    with pytest.raises(ValueError, match="only one"):
        ComposeFiles(tmp_path, Settings(), IMAGES["registry"]).sources(Topology((node,)), {})


def test_two_checkouts_on_one_machine_share_nothing_unless_they_are_told_to(tmp_path: Path) -> None:
    one, two = (ComposeFiles(tmp_path / name, Settings(), IMAGES["registry"]) for name in ("one", "two"))
    assert one.stack != two.stack
    assert one.subnet != two.subnet
    named = Settings.model_validate({"docker": {"name": "same", "subnet": "10.9.8.0/24"}})
    assert ComposeFiles(tmp_path / "one", named, IMAGES["registry"]).stack == "same"
    assert str(ComposeFiles(tmp_path / "one", named, IMAGES["registry"]).subnet) == "10.9.8.0/24"


# -- what is remembered ------------------------------------------------------------------------------------------


def test_the_file_says_which_images_it_was_made_for(world: Composed, tmp_path: Path) -> None:
    file = tmp_path / "docker-compose.yml"
    file.write_text(world.files["docker-compose.yml"])
    assert recorded(file) == world.place.images


def test_a_changed_file_changes_the_label_of_those_that_read_it_and_of_no_other(world: Composed) -> None:
    before = {f"docker/{path}": text.encode() for path, text in world.files.items()}
    for path in {source for node in world.nodes for source in node.files}:
        after = {**before, f"docker/{path}": b"edited by hand"}
        [source] = world.place.sources(world.topology, after)
        changed = {
            service.node.name
            for service in source.variables["services"]
            if service.labels[FILES_LABEL] != world.services[service.node.name]["labels"][FILES_LABEL]
        }
        assert changed == {node.name for node in world.nodes if path in node.files}


def test_labels_tell_the_node_and_the_kind_of_its_image(world: Composed) -> None:
    for node, service in world.pairs():
        labels = service["labels"]
        assert (labels["shopfds.node"], labels["shopfds.component"]) == (node.name, node.component)
        assert labels["shopfds.images"] == world.place.images.kind
    assert world.document["name"] == world.place.stack


def test_volumes_and_networks_bear_our_label_too_and_that_of_a_volume_never_changes(tmp_path: Path) -> None:
    """Compose asks to make a volume anew when its definition is another one."""
    worlds = [compose(case, tmp_path / case) for case in CASES]
    for world in worlds:
        for name, network in world.document["networks"].items():
            assert network["labels"] == {"shopfds.network": name}
        assert world.document["volumes"] == worlds[0].document["volumes"]
        for node in world.topology:
            for volume in node.volumes:
                labels = world.document["volumes"][world.place.volume(node.name, volume)]["labels"]
                assert labels == {"shopfds.node": node.name}


def test_the_file_says_for_which_stack_it_was_made(world: Composed, tmp_path: Path) -> None:
    file = tmp_path / "docker-compose.yml"
    file.write_text(world.files["docker-compose.yml"])
    assert origin(file) == Origin(world.place.stack, world.place.project)


@pytest.mark.parametrize("folder", ["it's a $HOME", 'say "hello"', "100 % {here}"])
def test_the_folder_of_a_stack_may_have_any_name(tmp_path: Path, folder: str) -> None:
    world = composed(Settings(), IMAGES["registry"], tmp_path / folder)
    file = tmp_path / "docker-compose.yml"
    file.write_text(world.files["docker-compose.yml"])
    assert origin(file) == Origin(world.place.stack, tmp_path / folder)
    assert world.document["x-shopfds"]["project"] == str(tmp_path / folder)


@pytest.mark.parametrize("text", ["", "name: shop\n", "name: 7\n", 'name: "shop', 'name: "shop"\n', "\udcff"])
def test_a_file_of_somebody_else_says_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "docker-compose.yml"
    file.write_text(text, errors="surrogateescape")
    assert origin(file) is None
    assert origin(tmp_path / "absent.yml") is None


def test_a_server_that_is_none_of_ours_has_no_contract() -> None:
    with pytest.raises(KeyError, match="kafka"):
        IMAGES["registry"].contract("kafka")
    with pytest.raises(KeyError, match="kafka"):
        contract("kafka", (3,))


# -- quoting -----------------------------------------------------------------------------------------------------

ASCII = st.text(st.characters(min_codepoint=9, max_codepoint=126, exclude_categories=["Cc"]) | st.sampled_from("\n\t$"))


@given(st.lists(ASCII))
def test_whatever_is_quoted_is_read_again_as_it_was_with_every_dollar_doubled(values: list[str]) -> None:
    read = yaml.safe_load(f"x: {quoted(values)}\n")["x"]
    assert read == [value.replace("$", "$$") for value in values]


@given(ASCII)
def test_a_single_string_is_quoted_alike(value: str) -> None:
    assert yaml.safe_load(quoted(value)) == value.replace("$", "$$")
