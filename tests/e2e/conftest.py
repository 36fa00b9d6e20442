"""What the tests through the CLI share: looking at a project's processes from outside."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import Project


@pytest.fixture
def pid_of(project: Project) -> Callable[[str], int]:
    """The process id of a node, as `ps` says."""

    def find(node: str) -> int:
        rows = project.json("ps")["data"]
        return next(int(row["pid"]) for row in rows if row["name"] == node)

    return find


@pytest.fixture
def fresh_project(new_project: Callable[[], Project]) -> Iterator[Project]:
    """A project of the test's own, with nothing in it yet; removed when the test is over."""
    project = new_project()
    yield project
    project.run("down", "--volumes", "--yes")


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


def supervisor_of(project: Project) -> psutil.Process:
    """The supervisord that runs this project's nodes: their common parent."""
    pid = next(row["pid"] for row in project.json("ps")["data"] if row["pid"])
    parent = psutil.Process(pid).parent()
    assert parent is not None
    return parent


def kill_hard(pid: int) -> None:
    """SIGKILL behind the CLI's back, and wait until the process is gone."""
    process = psutil.Process(pid)
    os.kill(pid, 9)
    psutil.wait_procs([process], timeout=10)
