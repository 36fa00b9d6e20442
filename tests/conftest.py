"""Fixtures that every kind of test shares: projects of their own, on free ports, and the stack they all may use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shopfds_ops.components import postgres, redis_cluster
from shopfds_ops.components.base import Live
from shopfds_ops.engines import packages, ports
from shopfds_ops.settings import Ports
from shopfds_ops.stack import Stack

SHOPFDS = Path(sys.executable).with_name("shopfds")
FIRST_OFFSET = 2000
OFFSET_STEP = 50


@dataclass(frozen=True)
class Project:
    """A project folder and the CLI run in it, as a user runs it."""

    folder: Path

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("SHOPFDS_")}
        return ours | {"SHOPFDS_PROJECT_DIR": str(self.folder), "COLUMNS": "120"} | dict(extra or {})

    def run(
        self, *arguments: str, stdin: str | None = None, timeout: float = 180, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `shopfds ARGUMENTS`; never raises for its exit code."""
        return subprocess.run(
            [str(SHOPFDS), *arguments],
            env=self.environment(env),
            cwd=self.folder,
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ok(self, *arguments: str, **options: Any) -> str:
        """Run it, insist on exit code 0, and return what it printed on stdout."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, f"shopfds {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str, **options: Any) -> Any:
        """Run it with `--format json` and return the whole envelope, whatever the exit code."""
        return json.loads(self.run(*arguments, "--format", "json", **options).stdout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run it in the background."""
        return subprocess.Popen(
            [str(SHOPFDS), *arguments],
            env=self.environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stack(self) -> Stack:
        return Stack.open(project=self.folder)


@pytest.fixture(scope="session")
def servers() -> None:
    """Skip without the servers; in CI that is a failure."""
    absent = packages.missing(packages.find())
    if absent and os.environ.get("CI"):
        pytest.fail(f"CI must have the servers: {'; '.join(absent)}")
    if absent:
        pytest.skip("; ".join(absent))


@pytest.fixture(scope="session")
def workspace() -> Iterator[Path]:
    """A folder that the servers' users may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="shopfds-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_project(workspace: Path) -> Iterator[Callable[[], Project]]:
    """Makes projects on ports of their own; whatever they started is gone at the end."""
    made: list[Project] = []

    def make() -> Project:
        folder = workspace / f"project-{len(made) + 1}"
        folder.mkdir()
        project = Project(folder)
        made.append(project)
        project.ok("config", "set", "ports.offset", str(_free_offset(FIRST_OFFSET + len(made) * OFFSET_STEP)))
        return project

    yield make
    for project in made:
        project.run("down", "--volumes", "--yes")


@pytest.fixture(scope="session")
def project(servers: None, new_project: Callable[[], Project]) -> Project:
    """The stack that all tests share, up and empty; a test that breaks it mends it."""
    shared = new_project()
    shared.ok("up", "--no-seed")
    return shared


@pytest.fixture(scope="session")
def live(project: Project) -> Live:
    return project.stack().live


@pytest.fixture
def database(project: Project, live: Live) -> Iterator[str]:
    """Connection string of role shopfds to a database without our schemas; they are made anew afterwards."""
    _drop_schemas(live)
    yield postgres.conninfo(live, "shopfds")
    _drop_schemas(live)
    project.ok("migrate")


@pytest.fixture
def redis_endpoints(live: Live) -> tuple[tuple[str, int], ...]:
    return redis_cluster.endpoints(live)


def _drop_schemas(live: Live) -> None:
    with psycopg.connect(postgres.conninfo(live, "postgres"), autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS ecommerce, fds CASCADE")


def _free_offset(start: int) -> int:
    offset = start
    while not all(ports.is_free("127.0.0.1", number) for _, number in Ports(offset=offset).numbers()):
        offset += OFFSET_STEP
    return offset
