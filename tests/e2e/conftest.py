"""What the tests through the CLI share: looking at a project's processes, containers and data from outside."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from shopfds_ops.components import postgres
from shopfds_ops.engines import images, strays
from shopfds_ops.engines.compose import NODE_LABEL, ComposeFiles
from tests.conftest import Project


@pytest.fixture
def fresh_project(new_project: Callable[[], Project]) -> Iterator[Project]:
    """A project of the test's own, with nothing in it yet; removed when the test is over."""
    project = new_project()
    yield project
    project.remove()


@pytest.fixture
def small_mount(workspace: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system that is `read-only` or `full`. Needs root."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    mounted: list[Path] = []

    def mount(kind: str) -> Path:
        folder = workspace / f"mount-{kind}"
        folder.mkdir()
        options = "ro,size=64m" if kind == "read-only" else "size=1m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def without_docker(tmp_path: Path) -> Mapping[str, str]:
    """A PATH like ours, on which there is no docker command."""
    for folder in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        for program in Path(folder).iterdir():
            link = tmp_path / program.name
            if not program.name.startswith("docker") and not link.is_symlink():
                link.symlink_to(program)
    return {"PATH": str(tmp_path)}


@pytest.fixture
def nobody_listens() -> Mapping[str, str]:
    return {"DOCKER_HOST": "unix:///nonexistent.sock"}


@pytest.fixture
def silent_socket(tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """A daemon that takes connections and never says a word."""
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(50)
        yield {"DOCKER_HOST": f"unix://{path}"}


def pid_of(project: Project, node: str) -> int:
    """The process id of a node on this machine, as `ps` says."""
    return next(int(row["pid"]) for row in project.json("ps")["data"] if row["name"] == node)


def supervisor_of(project: Project) -> psutil.Process:
    """The supervisord that runs this project's nodes: their common parent."""
    pid = next(row["pid"] for row in project.json("ps")["data"] if row["pid"])
    parent = psutil.Process(pid).parent()
    assert parent is not None
    return parent


def containers(project: Project) -> list[dict[str, Any]]:
    """What `docker inspect` says of every container of this project, running or not."""
    ids = docker("ps", "--all", "--quiet", "--no-trunc", *of_project(project)).split()
    found: list[dict[str, Any]] = json.loads(docker("inspect", *ids)) if ids else []
    return found


def left_over(project: Project) -> list[str]:
    """What runs of a project that is down: process ids, or containers."""
    if project.engine == "local":
        return [str(pid) for pid in strays.find(str(project.stack().engine.data), None).values()]
    return [item["Name"] for item in containers(project) if item["State"]["Running"]]


def data_folder(project: Project, node: str) -> Path:
    """Where this machine keeps what the node sees as its data folder."""
    stack = project.stack()
    if project.engine == "local":
        return Path(stack.engine.site.volume(node, "data", stack.topology.node(node).image))
    if os.geteuid() != 0:
        pytest.skip("only root sees what is in Docker's volumes")
    (container,) = (
        item for item in containers(project) if item["Config"]["Labels"]["com.docker.compose.service"] == node
    )
    return next(Path(mount["Source"]) for mount in container["Mounts"] if mount["Type"] == "volume")


def empty(folder: Path) -> None:
    """Remove everything in it behind the CLI's back, whoever is using it."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def add_user(project: Project, name: str) -> None:
    """A row that must not be lost."""
    with psycopg.connect(postgres.conninfo(project.stack().live, "shopfds")) as connection:
        connection.execute(
            "INSERT INTO ecommerce.users (email, name, password_hash, country) VALUES (%s, %s, '!', 'KR')",
            [f"{name}@shop.example", name],
        )


def kill_hard(pid: int) -> None:
    """SIGKILL behind the CLI's back, and wait until the process is gone."""
    process = psutil.Process(pid)
    try:
        os.kill(pid, 9)
    except PermissionError:
        pytest.skip("only root kills a container's process behind Docker's back")
    psutil.wait_procs([process], timeout=10)


def docker(*arguments: str) -> str:
    """Run `docker ARGUMENTS`, and return what it printed."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


def of_project(project: Project) -> tuple[str, str]:
    """The arguments by which `docker ... ls` and `docker ps` list what is this project's."""
    return "--filter", f"label=com.docker.compose.project={stack_name(project)}"


def stack_name(project: Project) -> str:
    """The Compose project of a project's stack."""
    settings = project.stack().settings
    return ComposeFiles(project.folder, settings, images.registry(settings.images)).stack


@contextmanager
def a_volume(project: Project) -> Iterator[str]:
    """A volume as the stack leaves it on Docker, by its name; removed in the end if it is still there."""
    stack = stack_name(project)
    labels = (f"com.docker.compose.project={stack}", "com.docker.compose.volume=redis-node-1-data", f"{NODE_LABEL}=x")
    options = (word for label in labels for word in ("--label", label))
    name = docker("volume", "create", *options, f"{stack}_redis-node-1-data").strip()
    try:
        yield name
    finally:
        docker("volume", "rm", "--force", name)
