"""What Docker says of the stack's containers: nothing secret is in it, and each of them is confined."""

from __future__ import annotations

import json
from typing import Any

import psutil
import pytest

from tests.conftest import Project
from tests.e2e.conftest import containers, docker, of_project

pytestmark = pytest.mark.engines("docker")


@pytest.fixture
def inspected(project: Project) -> dict[str, dict[str, Any]]:
    """Node -> what `docker inspect` says of its container."""
    found = {item["Config"]["Labels"]["shopfds.node"]: item for item in containers(project)}
    assert set(found) == {node.name for node in project.stack().topology}
    return found


def test_no_secret_is_in_what_docker_tells_of_containers(project: Project, inspected: dict[str, Any]) -> None:
    told = json.dumps(inspected)
    for value in project.stack().secrets.values.values():
        assert value not in told


def test_nobody_is_root_in_a_container_or_can_become_it(inspected: dict[str, Any]) -> None:
    for node, item in inspected.items():
        host = item["HostConfig"]
        assert item["Config"]["User"].split(":")[0] not in ("", "0", "root"), node
        assert host["CapDrop"] == ["ALL"], node
        assert not host["CapAdd"], node
        assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"]), node
        assert not host["Privileged"], node
        assert host["ReadonlyRootfs"], node
        assert {host[space] for space in ("PidMode", "UTSMode", "UsernsMode")} == {""}, node
        process = psutil.Process(item["State"]["Pid"])
        users = {one.uids().real for one in (process, *process.children(recursive=True))}
        assert users == {int(item["Config"]["User"].split(":")[0])}, node


def test_every_container_has_its_limits(project: Project, inspected: dict[str, Any]) -> None:
    for node in project.stack().topology:
        host = inspected[node.name]["HostConfig"]
        assert host["Memory"] == node.resources.memory * 2**20
        assert host["NanoCpus"] == node.resources.cpus * 10**9
        assert host["PidsLimit"] == node.resources.pids
        assert host["LogConfig"]["Config"].keys() >= {"max-size", "max-file"}


def test_containers_are_reached_from_this_machine_only_and_reach_no_daemon(inspected: dict[str, Any]) -> None:
    for node, item in inspected.items():
        bound = item["HostConfig"]["PortBindings"] or {}
        assert {binding["HostIp"] for bindings in bound.values() for binding in bindings} <= {"127.0.0.1"}, node
        assert not [mount for mount in item["Mounts"] if "docker.sock" in mount["Source"]], node
        assert item["HostConfig"]["NetworkMode"] != "host", node


def test_down_with_volumes_leaves_nothing_in_docker_but_what_is_not_ours(fresh_project: Project) -> None:
    of = of_project(fresh_project)
    listings = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
    mine = docker("volume", "create").strip()
    try:
        fresh_project.ok("up", "--only", "postgres", "--no-seed")
        assert all(docker(*listing, "--quiet", *of) for listing in listings)
        fresh_project.ok("down", "--volumes", "--yes")
        assert [docker(*listing, "--quiet", *of) for listing in listings] == ["", "", ""]
        assert mine in docker("volume", "ls", "--quiet").split()
    finally:
        docker("volume", "rm", mine)
