"""Which engine runs the stack, and what is said where Docker cannot be used: one line, its remedy, nothing changed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.conftest import SHOPFDS, Project
from tests.e2e.conftest import a_volume, docker

NOBODY = 65534


@pytest.fixture
def on_docker(make_project: Callable[[str], Project]) -> Project:
    """A project that nothing was done with yet, and nothing will be: it needs no daemon."""
    return make_project("docker")


@pytest.fixture
def on_auto(on_docker: Project) -> Project:
    on_docker.ok("config", "set", "engine", "auto")
    return on_docker


@pytest.fixture
def without_compose(docker_daemon: None, tmp_path: Path) -> Mapping[str, str]:
    """An account that has no plugins of its own; skips where the system has Compose for everybody."""
    environment = {"DOCKER_CONFIG": str(tmp_path / "docker")}
    asked = subprocess.run(
        ["docker", "compose", "version"], env=os.environ | environment, capture_output=True, check=False
    )
    if asked.returncode == 0:
        pytest.skip("Compose is installed for every account of this machine")
    return environment


def refused(project: Project, environment: Mapping[str, str], *arguments: str) -> str:
    """What `shopfds ARGUMENTS` says when it refuses; in one line with one remedy, and without any change."""
    before = files(project)
    said = project.run(*arguments, env=environment)
    assert said.returncode == 1, said.stdout + said.stderr
    fail, remedy = said.stderr.splitlines()
    assert fail.startswith("[FAIL] ")
    assert remedy.startswith("    -> ")
    assert files(project) == before
    return said.stderr


def files(project: Project) -> dict[Path, bytes]:
    """All of them, but for the lock that one command at a time holds."""
    lock = project.folder / ".shopfds" / "lock"
    return {path: path.read_bytes() for path in project.folder.rglob("*") if path.is_file() and path != lock}


# -- Docker cannot be used ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["up", "status", "ps"])
def test_a_missing_docker_command_is_named(on_docker: Project, without_docker: Mapping[str, str], command: str) -> None:
    said = refused(on_docker, without_docker, command)
    assert "Docker is not installed" in said
    assert "shopfds --engine docker setup" in said


@pytest.mark.parametrize("command", ["up", "status", "setup"])
def test_a_daemon_that_is_down_is_named_with_its_address(
    docker_daemon: None, on_docker: Project, nobody_listens: Mapping[str, str], command: str
) -> None:
    said = refused(on_docker, nobody_listens, command)
    assert "does not answer at unix:///nonexistent.sock" in said
    assert "DOCKER_HOST" in said


@pytest.mark.parametrize("command", ["up", "status"])
def test_a_missing_compose_is_named_with_the_command_that_links_it(
    on_docker: Project, without_compose: Mapping[str, str], command: str
) -> None:
    said = refused(on_docker, without_compose, command)
    assert "docker compose" in said
    assert "shopfds --engine docker setup" in said


@pytest.mark.parametrize("command", ["up", "setup"])
def test_a_daemon_that_hangs_is_named_in_seconds(
    docker_daemon: None, on_docker: Project, silent_socket: Mapping[str, str], command: str
) -> None:
    began = time.monotonic()
    assert "does not answer within" in refused(on_docker, silent_socket, command)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("command", ["up", "setup"])
def test_a_socket_that_is_closed_to_the_user_is_named(
    docker_daemon: None, on_docker: Project, silent_socket: Mapping[str, str], command: str
) -> None:
    path = Path(silent_socket["DOCKER_HOST"].removeprefix("unix://"))
    path.chmod(0)
    as_anybody: list[str] = []
    if os.geteuid() == 0:  # a root who may not pass by permissions
        os.chown(path, NOBODY, NOBODY)
        as_anybody = ["setpriv", "--bounding-set", "-all"]
    said = subprocess.run(
        [*as_anybody, str(SHOPFDS), command],
        env=on_docker.environment(silent_socket),
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 1
    assert said.stderr.startswith("[FAIL] you may not use Docker's daemon")
    assert "DOCKER_HOST" in said.stderr


@pytest.mark.parametrize("command", ["status", "engine"])
def test_a_context_of_another_machine_is_named(
    docker_daemon: None, on_docker: Project, tmp_path: Path, command: str
) -> None:
    far = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_CONTEXT": "far", "DOCKER_HOST": ""}
    create = ["docker", "context", "create", "far", "--docker", "host=tcp://192.0.2.1:2376"]
    subprocess.run(create, env=os.environ | far | {"DOCKER_CONTEXT": ""}, check=True, capture_output=True)
    said = refused(on_docker, far, "status") if command == "status" else on_docker.run("engine", env=far).stderr
    assert "context far (tcp://192.0.2.1:2376) is another machine" in said
    assert "unset DOCKER_CONTEXT" in said


# -- the choice --------------------------------------------------------------------------------------------------


def test_auto_takes_docker_where_it_answers(docker_daemon: None, on_auto: Project) -> None:
    told = on_auto.json("engine")
    assert told["exit_code"] == 0
    assert told["data"]["chosen"] == "docker"
    assert "answers" in told["data"]["reason"]


def test_auto_takes_local_where_docker_does_not_answer_and_says_why(
    docker_daemon: None, on_auto: Project, nobody_listens: Mapping[str, str]
) -> None:
    told = on_auto.json("engine", env=nobody_listens)
    assert told["data"]["chosen"] == "local"
    assert "does not answer" in told["data"]["reason"]
    said = on_auto.run("engine", env=nobody_listens).stderr
    assert said.count("does not answer") == 1
    assert "DOCKER_HOST" in said


def test_auto_stays_with_the_engine_that_has_data(docker_daemon: None, on_auto: Project) -> None:
    kept = on_auto.folder / ".shopfds" / "local" / "volumes" / "redis-node-1" / "data"
    kept.mkdir(parents=True)
    (kept / "nodes.conf").write_text("")
    assert on_auto.json("engine")["data"]["chosen"] == "local"
    assert on_auto.json("engine")["data"]["engines"][1]["has_data"] is True


def test_auto_does_not_leave_a_stack_on_docker_when_its_daemon_is_down(
    docker_daemon: None, on_auto: Project, nobody_listens: Mapping[str, str]
) -> None:
    secrets = on_auto.folder / "infrastructure" / "docker" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "replicator").write_text("")
    assert "does not answer" in refused(on_auto, nobody_listens, "status")
    for command in ("engine", "up"):
        said = on_auto.run(command, env=nobody_listens)
        assert said.returncode == 1
        assert "made on it" in said.stderr
        assert "does not answer" in said.stderr


def test_auto_asks_which_is_meant_where_both_have_data_and_docker_does_not_answer(
    docker_daemon: None, on_auto: Project, nobody_listens: Mapping[str, str]
) -> None:
    kept = on_auto.folder / ".shopfds" / "local" / "volumes" / "redis-node-1" / "data"
    secrets = on_auto.folder / "infrastructure" / "docker" / "secrets"
    for folder in (kept, secrets):
        folder.mkdir(parents=True)
        (folder / "file").write_text("")
    with a_volume(on_auto):
        assert on_auto.json("engine")["data"]["chosen"] == "docker"
    for command in (("status",), ("up",), ("config", "path")):
        said = refused(on_auto, nobody_listens, *command)
        assert "both engines have data" in said
        assert "does not answer at unix:///nonexistent.sock" in said
        assert "DOCKER_HOST" in said
        assert "--engine local" in said

    told = on_auto.json("engine", env=nobody_listens)
    assert told["exit_code"] == 1
    assert told["data"]["chosen"] is None
    assert [(one["name"], one["has_data"]) for one in told["data"]["engines"]] == [("docker", None), ("local", True)]
    assert "--engine local" in on_auto.run("engine", env=nobody_listens).stderr
    assert "both engines have data" in on_auto.run("doctor", env=nobody_listens).stdout
    assert on_auto.ok("config", "get", "engine", env=nobody_listens) == "auto\n"
    assert on_auto.run("--engine", "local", "engine", env=nobody_listens).returncode == 0


def test_engine_tells_of_both_in_ascii(docker_daemon: None, on_docker: Project) -> None:
    told = on_docker.ok("engine")
    assert told.isascii()
    assert "docker (chosen)" in told
    assert str(on_docker.folder / ".shopfds" / "local") in told


# -- setting up --------------------------------------------------------------------------------------------------


def test_setup_links_compose_where_it_is_missing_and_again_changes_nothing(
    on_docker: Project, without_compose: Mapping[str, str]
) -> None:
    plugin = Path(without_compose["DOCKER_CONFIG"]) / "cli-plugins" / "docker-compose"
    plugin.parent.mkdir(parents=True)
    plugin.symlink_to("/nonexistent/docker-compose")  # as a removed .venv leaves it
    said = on_docker.run("setup", env=without_compose)
    assert said.returncode == 0, said.stderr
    assert f"is linked as {plugin}" in said.stderr
    assert plugin.resolve() == Path(sys.executable).with_name("docker-compose").resolve()
    made = plugin.lstat().st_ctime_ns
    assert "linked" not in on_docker.run("setup", env=without_compose).stderr
    assert plugin.lstat().st_ctime_ns == made
    assert on_docker.run("engine", env=without_compose).returncode == 0


def test_setup_leaves_a_plugin_of_somebody_else_alone(on_docker: Project, without_compose: Mapping[str, str]) -> None:
    plugin = Path(without_compose["DOCKER_CONFIG"]) / "cli-plugins" / "docker-compose"
    plugin.parent.mkdir(parents=True)
    metadata = '{"SchemaVersion": "0.1.0", "Vendor": "somebody", "Version": "2.3.3"}'
    plugin.write_text(f"#!/bin/sh\n[ $1 = docker-cli-plugin-metadata ] && echo '{metadata}' || echo 2.3.3\n")
    plugin.chmod(0o755)
    assert "2.3.3 is older" in refused(on_docker, without_compose, "up")
    kept = plugin.read_bytes()
    assert str(plugin) in refused(on_docker, without_compose, "setup")
    assert plugin.read_bytes() == kept


def test_setup_of_docker_does_nothing_where_all_is_there(docker_daemon: None, on_docker: Project) -> None:
    said = on_docker.run("setup")
    assert said.returncode == 0
    (line,) = said.stderr.splitlines()
    assert line.startswith("[OK] engine docker is set up: Docker Engine ")


# -- ports -------------------------------------------------------------------------------------------------------


def test_a_port_that_a_container_has_is_named_by_it(
    local_servers: None, offline_images: None, make_project: Callable[[str], Project]
) -> None:
    project = make_project("local")
    port = 7003 + int(project.ok("config", "get", "ports.offset"))
    image = docker("image", "ls", "--quiet", "--filter", "label=shopfds.content").split()[0]
    name = f"shopfds-test-{port}"
    published = ("--publish", f"127.0.0.1:{port}:{port}")
    docker("run", "--detach", "--rm", "--name", name, *published, "--entrypoint", "sleep", image, "600")
    try:
        said = project.run("up")
    finally:
        docker("rm", "--force", name)
    assert said.returncode == 1
    assert f"port {port}" in said.stderr
    assert f"container {name}" in said.stderr
