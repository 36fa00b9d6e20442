"""Bad input: one clear line that names the thing and the remedy, exit code 1 or 2, and nothing changed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import Project
from tests.e2e.conftest import containers, docker

WRONG = [
    (("status", "postgress"), 2, "did you mean 'postgres'"),
    (("init", "redis-clutser"), 2, "did you mean 'redis-cluster'"),
    (("start", "redis-node-7"), 2, "did you mean 'redis-node-"),
    (("exec", "postgres-primry"), 2, "did you mean 'postgres-primary'"),
    (("kill", "rabbitmq", "--signal", "SIGKIL"), 2, "did you mean 'SIGKILL'"),
    (("config", "get", "ports.ofset"), 2, "did you mean 'ports.offset'"),
    (("config", "set", "ports.ofset", "1"), 2, "did you mean 'ports.offset'"),
    (("config", "set", "ports.offset", "many"), 2, "ports.offset"),
    (("config", "set", "postgres.shared_buffers", "lots"), 2, "512MB"),
    (("logs", "--since", "yesterday"), 2, "10m"),
    (("logs", "--grep", "("), 2, "regular expression"),
    (("migrate", "--to", "no_such_revision"), 2, "no_such_revision"),
    (("migrate", "--service", "fdss"), 2, "did you mean 'fds'"),
    (("seed", "--users", "0"), 2, "users"),
    (("up", "--only", "postgers"), 2, "did you mean 'postgres'"),
    (("up", "--only", "postgres", "--without", "postgres"), 2, "--without takes away"),
    (("config", "set", "redis.maxmemory", "1MB"), 2, "16MB"),
    (("blacklist", "add", "--ip", "300.1.1.1", "--reason", "x"), 2, "300.1.1.1"),
    (("blacklist", "add", "--range", "10.0.0.1/8", "--reason", "x"), 2, "10.0.0.0/8"),
    (("blacklist", "add", "--bin", "12", "--reason", "x"), 2, "12"),
    (("blacklist", "add", "--email-domain", "not a domain", "--reason", "x"), 2, "not a domain"),
    (("blacklist", "add", "--ip", "192.0.2.1", "--ttl", "soon", "--reason", "x"), 2, "soon"),
]


@pytest.mark.parametrize(("arguments", "code", "named"), WRONG, ids=[" ".join(item[0]) for item in WRONG])
def test_a_wrong_request_is_one_clear_line(project: Project, arguments: tuple[str, ...], code: int, named: str) -> None:
    before = _files(project.folder)
    said = project.run(*arguments)
    assert said.returncode == code, said.stderr
    assert named in said.stderr
    assert said.stderr.startswith("[FAIL]")
    assert "Traceback" not in said.stderr
    assert said.stdout == ""
    assert _files(project.folder) == before


def test_a_traceback_is_shown_only_with_debug(project: Project) -> None:
    assert "Traceback" not in project.run("status", "nothing").stderr
    assert "Traceback" in project.run("--debug", "status", "nothing").stderr


def test_errors_of_json_commands_are_json_too(project: Project) -> None:
    envelope = project.json("status", "nothing")
    assert envelope["ok"] is False
    assert envelope["exit_code"] == 2
    assert "nothing" in envelope["messages"][0]["text"]


def test_an_unknown_setting_in_the_environment_is_refused(project: Project) -> None:
    said = project.run("ps", env={"SHOPFDS_PORTS__OFSET": "5"})
    assert said.returncode == 2
    assert "SHOPFDS_PORTS__OFFSET" in said.stderr


def test_a_settings_file_that_does_not_parse_is_named(new_project: Callable[[], Project]) -> None:
    project = new_project()
    kept = (project.folder / "shopfds.toml").read_text()
    (project.folder / "shopfds.toml").write_text("ports = [")
    said = project.run("status")
    (project.folder / "shopfds.toml").write_text(kept)
    assert said.returncode == 2
    assert "shopfds.toml" in said.stderr


def test_a_port_of_somebody_else_is_named_with_its_process(new_project: Callable[[], Project]) -> None:
    import socket

    project = new_project()
    offset = int(project.ok("config", "get", "ports.offset"))
    with socket.create_server(("127.0.0.1", 7003 + offset)):
        said = project.run("up")
    assert said.returncode == 1
    assert f"port {7003 + offset}" in said.stderr
    assert f"pid {os.getpid()}" in said.stderr
    assert {row["state"] for row in project.json("ps")["data"]} == {"stopped"}


@pytest.mark.engines("local")  # Docker has one place for the volumes of all
@pytest.mark.parametrize("kind", ["read-only", "full"])
def test_a_data_folder_that_cannot_be_written_is_named(
    new_project: Callable[[], Project], small_mount: Callable[[str], Path], kind: str
) -> None:
    project = new_project()
    folder = small_mount(kind)
    project.ok("config", "set", "data", str(folder / "data"))
    said = project.run("up")
    assert said.returncode == 1
    assert str(folder) in said.stderr
    assert "config set data" in said.stderr
    assert {row["state"] for row in project.json("ps")["data"]} == {"stopped"}
    project.ok("config", "set", "data", ".shopfds/local")


def test_a_missing_server_is_named_with_the_command_that_installs_it(make_project: Callable[[str], Project]) -> None:
    project = make_project("local")
    script = (
        "import shopfds_ops.engines.packages as p, sys; p.find = lambda *_: {};"
        "from shopfds_ops.cli.app import main; sys.argv = ['shopfds', 'up']; main()"
    )
    import sys

    said = subprocess.run(
        [sys.executable, "-c", script], env=project.environment(), capture_output=True, text=True, check=False
    )
    assert said.returncode == 1
    assert "Redis 6.2 or newer is not installed" in said.stderr
    assert "make setup" in said.stderr


@pytest.mark.engines("docker")
def test_a_container_that_ends_at_once_is_named_with_its_last_log_lines(fresh_project: Project) -> None:
    fresh_project.ok("render")
    file = fresh_project.folder / "infrastructure" / "docker" / "redis" / "redis-cluster.conf"
    file.write_text(file.read_text() + "no-such-directive yes\n")
    said = fresh_project.run("up", "--only", "redis-node-1", "--timeout", "20")
    assert said.returncode == 1
    assert "redis-node-1" in said.stderr
    assert "no-such-directive" in said.stderr


@pytest.mark.engines("docker")
def test_an_image_that_is_missing_is_named_with_the_command_that_builds_it(fresh_project: Project) -> None:
    fresh_project.ok("render")
    file = fresh_project.folder / "infrastructure" / "docker" / "docker-compose.yml"
    image = yaml.safe_load(file.read_text())["services"]["redis-node-1"]["image"]
    docker("tag", image, "shopfds-test/kept")
    docker("rmi", image)
    try:
        said = fresh_project.run("restart", "redis-node-1")  # `up` would build it
    finally:
        docker("tag", "shopfds-test/kept", image)
        docker("rmi", "shopfds-test/kept")
    assert said.returncode == 1
    assert image in said.stderr
    assert "shopfds images build" in said.stderr
    assert containers(fresh_project) == []


def _files(folder: Path) -> dict[str, bytes]:
    names = ("shopfds.toml", ".env")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}
