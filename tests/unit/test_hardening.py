"""One test for each rule that makes the containers hard to misuse, over every service that is rendered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.composed import CASES, PASSWORDS, Composed, compose

NEEDS_CAPABILITIES: Mapping[str, tuple[str, ...]] = {}
"""Service -> the capabilities it gets back; each with its reason here. None needs any."""


@pytest.fixture(scope="module", params=CASES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Composed:
    return compose(request.param, tmp_path_factory.mktemp("project"))


def strings(value: Any) -> Iterator[str]:
    """Every string in a piece of the document, keys too."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from (str(name), *strings(item))
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    else:
        yield str(value)


def ports(service: Any) -> list[str]:
    return list(service.get("ports", []))


# -- who it is, and what it may do -------------------------------------------------------------------------------


def test_every_service_runs_as_a_user_by_number_who_is_not_root(world: Composed) -> None:
    for name, service in world.services.items():
        uid, gid = re.fullmatch(r"(\d+):(\d+)", service["user"]).groups()  # type: ignore[union-attr]
        assert int(uid) > 0, name
        assert int(gid) > 0, name


def test_every_service_drops_all_capabilities_and_gets_back_only_those_that_are_listed_with_a_reason(
    world: Composed,
) -> None:
    for name, service in world.services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert tuple(service.get("cap_add", ())) == NEEDS_CAPABILITIES.get(name, ()), name


def test_no_service_can_gain_privileges(world: Composed) -> None:
    for name, service in world.services.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
        assert "devices" not in service, name


def test_no_service_shares_a_namespace_of_the_machine(world: Composed) -> None:
    for name, service in world.services.items():
        for namespace in ("network_mode", "pid", "ipc", "uts", "userns_mode", "cgroup", "cgroup_parent"):
            assert namespace not in service, name


# -- what it can write and see -----------------------------------------------------------------------------------


def test_the_root_of_every_service_is_read_only_and_a_bounded_tmpfs_is_all_that_it_may_write_besides_its_volumes(
    world: Composed,
) -> None:
    for node, service in world.pairs():
        assert service["read_only"] is True, node.name
        allowed = {"/tmp", world.place.images.contract(node.image).data}
        for entry in service["tmpfs"]:
            folder, _, options = entry.partition(":")
            assert folder in allowed, node.name
            assert re.search(r"\bsize=\d+m\b", options), node.name


def test_nothing_of_the_machine_is_mounted_but_rendered_files_and_secret_files(world: Composed) -> None:
    """No docker socket, no folder of the host: a volume has a name, and files lie beside the Compose file."""
    for name, service in world.services.items():
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in world.document["volumes"], name
        assert "docker.sock" not in json.dumps(service), name
        assert "volumes_from" not in service, name
    for kind in ("configs", "secrets"):
        for entry in world.document[kind].values():
            assert entry.keys() == {"file"}
            assert re.fullmatch(r"\./[a-z][\w./-]*", entry["file"])
            assert ".." not in entry["file"]
    for volume in world.document["volumes"].values():
        assert volume.keys() <= {"labels"}


def test_no_secret_is_anywhere_in_the_file(world: Composed) -> None:
    """What is not in the file cannot be in what `docker inspect` shows: environment, command, labels, health check."""
    shown = [*strings(world.document), world.files["docker-compose.yml"]]
    assert len(shown) > 100
    for text in shown:
        assert not any(password in text for password in PASSWORDS.values.values())


def test_secrets_are_mounted_as_files_and_never_in_the_environment(world: Composed) -> None:
    assert world.document["secrets"]
    for name, service in world.services.items():
        assert "env_file" not in service, name
        for entry in service["secrets"]:
            assert entry["target"].startswith("/run/secrets/"), name
        for variable in service.get("environment", {}):
            assert not re.search(r"PASSWORD(?!_FILE)|SECRET|TOKEN|COOKIE", variable), f"{variable} of {name}"


def test_a_service_sees_only_the_secret_files_that_its_node_reads(world: Composed) -> None:
    for node, service in world.pairs():
        assert [entry["source"] for entry in service["secrets"]] == list(node.secrets)
    admins = [name for name, service in world.services.items() if "redis-admin" in json.dumps(service["secrets"])]
    assert admins == ["redis-cluster-create"]


# -- how it is reached -------------------------------------------------------------------------------------------


def test_ports_are_published_only_on_the_address_that_the_settings_name(world: Composed) -> None:
    published = [port for service in world.services.values() for port in ports(service)]
    assert published
    for port in published:
        assert re.fullmatch(rf"{re.escape(world.settings.bind)}:\d+:\d+", port)


def test_without_a_setting_nothing_is_reached_from_another_machine(tmp_path: Path) -> None:
    published = [
        port for service in compose("defaults-registry", tmp_path).services.values() for port in ports(service)
    ]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


# -- what it may use, and what becomes of it ---------------------------------------------------------------------


def test_every_service_has_limits_of_memory_processors_processes_and_open_files(world: Composed) -> None:
    for name, service in world.services.items():
        assert re.fullmatch(r"[1-9]\d*m", service["mem_limit"]), name
        assert service["memswap_limit"] == service["mem_limit"], name  # or it may swap as much again
        assert 0 < service["cpus"] <= 2, name
        assert 0 < service["pids_limit"] <= 2500, name
        # More than the 10000 clients that Redis counts on, or it starts with fewer; no more than old daemons may give.
        assert 10032 < service["ulimits"]["nofile"] <= 20000, name


def test_the_logs_of_every_service_are_bounded(world: Composed) -> None:
    for name, service in world.services.items():
        assert service["logging"]["driver"] == "json-file", name
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}, name


def test_every_service_comes_back_after_a_crash_but_not_after_it_was_stopped(world: Composed) -> None:
    for name, service in world.services.items():
        assert service["restart"] == "unless-stopped", name


def test_every_service_is_watched(world: Composed) -> None:
    for name, service in world.services.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert len(service["healthcheck"]["test"]) > 1, name
        assert not service["healthcheck"].get("disable"), name


def test_every_service_gets_its_stop_signal_and_time_to_end(world: Composed) -> None:
    for name, service in world.services.items():
        assert service["init"] is True, name
        assert service["stop_signal"] in ("SIGTERM", "SIGINT"), name
        assert int(service["stop_grace_period"].removesuffix("s")) >= 5, name


def test_no_service_relies_on_what_an_image_would_run_or_set(world: Composed) -> None:
    """PATH alone comes from the image: official ones keep their programs in different places."""
    for node, service in world.pairs():
        assert service["entrypoint"], node.name
        assert "working_dir" not in service, node.name
        for word in service["entrypoint"]:
            assert not word.startswith(("/usr", "/opt", "/bin", "/docker-entrypoint")), node.name
        mentioned = set(re.findall(r"\$\{?([A-Z][A-Z_]+)", " ".join(service["healthcheck"]["test"])))
        assert mentioned <= service.get("environment", {}).keys(), node.name


def test_scripts_use_no_variable_that_only_an_image_sets(world: Composed) -> None:
    for node in world.nodes:
        given = {name for other in world.nodes if set(other.files) & set(node.files) for name in other.environment}
        for source in node.files:
            if source.endswith(".sh"):
                assert set(re.findall(r"\$\{?([A-Z][A-Z_]+)", world.files[source])) <= given, source
