"""Data in Docker: never somebody else's, found again, and opened only by servers that can."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from shopfds_ops.engines.choice import compose_files
from tests.conftest import Project
from tests.e2e.conftest import docker

NODE = "redis-node-1"
FOREIGN = "shopfds-test-foreign"


@pytest.fixture
def made() -> Iterator[list[Project]]:
    """Projects that a test makes beside its own; removed when it is over."""
    projects: list[Project] = []
    yield projects
    for project in projects:
        project.remove()


@pytest.fixture
def shop(docker_project: Project) -> Project:
    """A project with one node, which runs and has data."""
    docker_project.ok("start", NODE)
    docker_project.ok("exec", NODE, "sh", "-c", "echo kept > /data/mark")
    return docker_project


@pytest.fixture
def somebody(offline_images: None, tmp_path: Path) -> Iterator[str]:
    """A Compose project of somebody else, with a container and a volume; returns its name."""
    image = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "shopfds-offline/redis").split()[0]
    service = {"image": image, "entrypoint": ["sleep", "600"], "volumes": ["stuff:/data"], "init": True}
    file = tmp_path / "compose.yml"
    file.write_text(json.dumps({"name": FOREIGN, "services": {"shop": service}, "volumes": {"stuff": {}}}))
    compose = ("docker", "compose", "--file", str(file))
    subprocess.run([*compose, "up", "--detach"], capture_output=True, check=True)
    yield FOREIGN
    subprocess.run([*compose, "down", "--volumes", "--timeout", "0"], capture_output=True, check=True)


def name_of(project: Project) -> str:
    """The Compose project of its settings."""
    return compose_files(project.folder, project.stack().settings).stack


def volumes(stack: str) -> set[str]:
    return set(docker("volume", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={stack}").split())


def running(stack: str) -> dict[str, str]:
    """Container -> its id, of those that run in a Compose project."""
    label = f"label=com.docker.compose.project={stack}"
    rows = docker("ps", "--no-trunc", "--filter", label, "--format", "{{.Names}} {{.ID}}")
    return dict(row.split() for row in rows.splitlines())  # type: ignore[misc]


def mark(project: Project) -> str:
    return project.ok("exec", NODE, "cat", "/data/mark").strip()


def snapshot(project: Project) -> Mapping[str, bytes]:
    folder = project.folder / "infrastructure"
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(project: Project, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """What a command says that refuses, and changes neither files nor containers nor volumes."""
    stack = name_of(project)
    before = snapshot(project), volumes(stack), running(stack)
    said = project.run(*arguments, env=env)
    assert said.returncode == 1, said.stderr
    assert (snapshot(project), volumes(stack), running(stack)) == before
    return said.stderr


# -- a name that is somebody else's ------------------------------------------------------------------------------


def test_a_compose_project_of_somebody_else_is_left_alone(docker_project: Project, somebody: str) -> None:
    docker_project.ok("config", "set", "docker.name", somebody)
    before = running(somebody), volumes(somebody)
    said = refused(docker_project, "start", NODE)
    assert f"the Compose project '{somebody}' belongs to something else" in said
    assert "shopfds config set docker.name" in said
    assert docker_project.json("ps")["data"][0]["state"] == "stopped"
    docker_project.run("stop")
    docker_project.ok("down", "--volumes", "--yes")
    assert (running(somebody), volumes(somebody)) == before
    docker_project.ok("config", "set", "docker.name", "shopfds-test-own")
    docker_project.ok("start", NODE)
    assert (running(somebody), volumes(somebody)) == before


def test_volumes_alone_of_somebody_else_are_left_alone(docker_project: Project) -> None:
    volume = f"{FOREIGN}_{NODE}-data"
    docker("volume", "create", "--label", f"com.docker.compose.project={FOREIGN}", volume)
    try:
        docker_project.ok("config", "set", "docker.name", FOREIGN)
        assert "belongs to something else" in refused(docker_project, "start", NODE)
        docker_project.ok("down", "--volumes", "--yes")
        assert volumes(FOREIGN) == {volume}
    finally:
        docker("volume", "rm", volume)


def test_what_somebody_else_puts_into_our_compose_project_is_not_removed(shop: Project) -> None:
    stack = name_of(shop)
    image = docker("inspect", f"{stack}-{NODE}-1", "--format", "{{.Config.Image}}").strip()
    label = f"com.docker.compose.project={stack}"
    own = docker("run", "--detach", "--label", label, "--entrypoint", "sleep", image, "600").strip()
    try:
        assert "belongs to something else" in refused(shop, "start", NODE)
        shop.ok("down", "--volumes", "--yes")
        assert list(running(stack).values()) == [own]
    finally:
        docker("rm", "--force", "--volumes", own)


@pytest.mark.parametrize("down", [False, True])
def test_a_copy_of_a_checkout_with_the_same_name_touches_nothing(
    shop: Project, tmp_path: Path, made: list[Project], down: bool
) -> None:
    shop.ok("down")
    shop.ok("config", "set", "docker.name", name_of(shop))
    shop.ok("start", NODE)
    copy = Project(tmp_path / "copy", "docker")
    shutil.copytree(shop.folder, copy.folder)
    if down:
        shop.ok("down")
    for command in (("start", NODE), ("down", "--volumes", "--yes")):
        said = refused(copy, *command)
        assert f"belongs to the stack in {shop.folder}" in said
        assert "shopfds config set docker.name" in said
    made.append(copy)
    copy.ok("config", "set", "docker.name", "shopfds-test-copy")
    copy.ok("config", "set", "ports.offset", str(copy.stack().settings.ports.offset + 7))
    copy.ok("start", NODE)
    assert volumes("shopfds-test-copy")
    shop.ok("start", NODE)
    assert mark(shop) == "kept"


# -- a folder that was moved, a name that was changed ------------------------------------------------------------


@pytest.mark.parametrize("down", [False, True])
def test_a_folder_that_was_moved_finds_its_data_again(shop: Project, made: list[Project], down: bool) -> None:
    name, old = name_of(shop), shop.folder
    if down:
        shop.ok("down")
    moved = Project(old.with_name(f"{old.name}-moved"), "docker")
    made.append(moved)
    old.rename(moved.folder)
    old.mkdir()  # the fixture's own clean-up runs in it
    kept = volumes(name)
    for command in (("start", NODE), ("render",), ("down", "--volumes", "--yes")):
        said = refused(moved, *command)
        assert f"this stack's data are in the Docker volumes {name}_*" in said
        assert str(old) in said
        assert f"shopfds config set docker.name {name}" in said
    assert volumes(name) == kept
    assert (moved.folder / ".env").exists()
    moved.ok("config", "set", "docker.name", name)
    moved.ok("start", NODE)
    assert mark(moved) == "kept"
    sources = {
        item["Source"]
        for item in json.loads(docker("inspect", f"{name}-{NODE}-1"))[0]["Mounts"]
        if item["Type"] == "bind"
    }
    assert sources
    assert all(Path(source).is_relative_to(moved.folder) for source in sources)


@pytest.mark.parametrize("key", ["project", "docker.name"])
def test_a_new_name_that_would_leave_data_behind_is_refused(shop: Project, key: str) -> None:
    name = name_of(shop)
    said = refused(shop, "config", "set", key, "other")
    assert f"its data in the Docker volumes {name}_*" in said
    variable = f"SHOPFDS_{key.upper().replace('.', '__')}"
    assert f"shopfds config set docker.name {name}" in refused(shop, "start", NODE, env={variable: "other"})
    shop.ok("config", "set", "docker.name", name)  # as it is already
    shop.ok("config", "set", "project", "other")  # no longer in the name
    shop.ok("start", NODE)
    assert mark(shop) == "kept"


def test_a_new_name_is_free_while_there_are_no_data(docker_project: Project) -> None:
    docker_project.ok("render")
    docker_project.ok("config", "set", "project", "other")
    docker_project.ok("config", "set", "docker.name", "shopfds-test-new")
    docker_project.ok("render")


# -- other servers -----------------------------------------------------------------------------------------------


@pytest.fixture
def official(offline_images: None) -> Iterator[Callable[[str, str], str]]:
    """Names an image that is here as if it were an official one of this version; returns its reference."""
    names: list[str] = []

    def name(server: str, version: str) -> str:
        image = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"shopfds-offline/{server}").split()[0]
        names.append(f"shopfds-test/{server}:{version}")
        docker("tag", image, names[-1])
        return names[-1]

    yield name
    for one in names:
        docker("image", "rm", one)


Official = Callable[[str, str], str]
FIRST = {"postgres": "15.3", "redis": "7.0.5", "rabbitmq": "3.10.2"}


def environment(official: Official, **versions: str) -> dict[str, str]:
    return {f"SHOPFDS_IMAGES__{server.upper()}": official(server, text) for server, text in versions.items()}


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("command", [("start", NODE), ("render",)])
def test_another_kind_of_images_is_refused_over_data(
    shop: Project, official: Official, command: tuple[str, ...], down: bool
) -> None:
    if down:
        shop.ok("down")
    env = environment(official, postgres="17", redis="7.4", rabbitmq="4.1")
    said = (
        refused(shop, *command, "--images", "registry", env=env)
        if command[0] == "start"
        else refused(shop, *command, env=env | {"SHOPFDS_IMAGES__SOURCE": "registry"})
    )
    assert "data were made with offline images" in said
    assert "registry images (postgres 17, redis 7.4, rabbitmq 4.1)" in said
    assert "shopfds config set images.source offline" in said
    assert "docs/operations.md" in said
    assert "down --volumes" in said
    shop.ok("start", NODE)
    assert mark(shop) == "kept"


@pytest.mark.parametrize("down", [False, True])
def test_newer_servers_of_the_same_kind_take_over_and_older_ones_and_another_postgresql_do_not(
    docker_project: Project, official: Official, down: bool
) -> None:
    first = environment(official, **FIRST) | {"SHOPFDS_IMAGES__SOURCE": "registry"}
    docker_project.ok("start", NODE, env=first)
    docker_project.ok("exec", NODE, "sh", "-c", "echo kept > /data/mark", env=first)
    if down:
        docker_project.ok("down", env=first)
    for server, old, new in (
        ("postgres", "15.3", "16.1"),
        ("postgres", "15.3", "15.2"),
        ("redis", "7.0.5", "7.0.4"),
        ("rabbitmq", "3.10.2", "3.9"),
    ):
        said = refused(docker_project, "start", NODE, env=first | environment(official, **{server: new}))
        assert f"{server} {old}, and {new} is asked for" in said
        assert f"shopfds config set images.{server} shopfds-test/{server}:{old}" in said
    newer = first | environment(official, postgres="15.9", redis="8.0", rabbitmq="4.1")
    docker_project.ok("start", NODE, env=newer)
    assert docker_project.ok("exec", NODE, "cat", "/data/mark", env=newer).strip() == "kept"


# -- secrets -----------------------------------------------------------------------------------------------------


def secret_files(project: Project) -> dict[str, str]:
    folder = project.folder / "infrastructure/docker/secrets"
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_rendered_secrets_are_those_of_env_until_data_were_made_with_them(docker_project: Project) -> None:
    env = docker_project.folder / ".env"
    docker_project.ok("render")
    first = secret_files(docker_project)
    env.unlink()
    docker_project.ok("render")
    second = secret_files(docker_project)
    assert second.keys() == first.keys()
    assert all(second[name] != first[name] for name in first)

    docker_project.ok("start", NODE)
    env.write_text(
        "".join(f"{line.partition('=')[0]}=rotated\n" for line in env.read_text().splitlines() if "=" in line)
    )
    (docker_project.folder / "infrastructure/docker/secrets/redis-auth.conf").unlink()
    docker_project.ok("render")
    third = secret_files(docker_project)
    assert "rotated" in third.pop("redis-auth.conf")
    assert third == {name: text for name, text in second.items() if name in third}
