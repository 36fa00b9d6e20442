"""Fixtures that every kind of test shares: projects of their own, on free ports, and the stack they all may use.

A test that uses `engine`, directly or by another fixture, runs on every engine: all tests on one, then all on the next.
`@pytest.mark.engines("local")` is for tests of what only that engine has.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest

from shopfds_ops.components import postgres, redis_cluster
from shopfds_ops.components.base import Live
from shopfds_ops.engines import daemon, docker_setup, packages, ports
from shopfds_ops.errors import EngineError
from shopfds_ops.events import discard
from shopfds_ops.settings import Ports
from shopfds_ops.stack import Stack

ENGINES = ("local", "docker")
SHOPFDS = Path(sys.executable).with_name("shopfds")
OFFSETS = range(2000, 6950, 50)
"""Of the ports of test projects: beside a stack on the usual ones, and below those that clients are given."""


@dataclass(frozen=True)
class Project:
    """A project folder and the CLI run in it, as a user runs it."""

    folder: Path
    engine: str

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
        """Run it in the background, where Ctrl-C reaches it, also if the tests were started so that it does not."""
        return subprocess.Popen(
            [str(SHOPFDS), *arguments],
            env=self.environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  no threads here
        )

    def stack(self) -> Stack:
        return Stack.open(project=self.folder)

    def remove(self) -> None:
        """Stop it, and remove all its data."""
        self.run("down", "--volumes", "--yes")


@pytest.hookimpl(trylast=True)  # after pytest's own order, which would go back and forth between the engines
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def engine(item: pytest.Item) -> str | None:
        return item.callspec.params.get("engine") if hasattr(item, "callspec") else None

    def wanted(item: pytest.Item) -> bool:
        marker = item.get_closest_marker("engines")
        return marker is None or engine(item) in marker.args

    items[:] = sorted(filter(wanted, items), key=lambda item: [None, *ENGINES].index(engine(item)))


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The engine that a test runs on. When it changes, everything that was made with the former is gone."""
    return str(request.param)


@pytest.fixture(scope="session")
def local_servers() -> None:
    """The servers as packages of this machine, or skip."""
    if absent := packages.missing(packages.find()):
        _cannot_be_had("; ".join(absent))


@pytest.fixture(scope="session")
def docker_daemon() -> Iterator[None]:
    """Docker with Compose, or skip. Root gets it and starts its daemon where that is missing, until the tests end."""
    found = daemon.look().obstacle
    if found is None:
        yield
        return
    if os.geteuid() != 0:
        _cannot_be_had(found.what)
    try:
        docker_setup.install(discard, start_it=False)
        started = docker_setup.start(discard)
    except EngineError as error:
        _cannot_be_had(error.what)
    yield
    if started:
        docker_setup.stop()


@pytest.fixture(scope="session")
def offline_images(docker_daemon: None, make_project: Callable[[str], Project]) -> None:
    """The images that are made here; only the first run ever takes long."""
    make_project("docker").ok("images", "build", timeout=900)


@pytest.fixture(scope="session")
def servers(engine: str, request: pytest.FixtureRequest) -> None:
    """What the engine needs to run servers, or skip."""
    request.getfixturevalue("offline_images" if engine == "docker" else "local_servers")


@pytest.fixture(scope="session")
def workspace() -> Iterator[Path]:
    """A folder that the servers' users may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="shopfds-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def make_project(workspace: Path) -> Callable[[str], Project]:
    """Makes a project that runs on the engine so called, on ports of its own. Who calls it removes it."""
    first = random.randrange(len(OFFSETS))  # noqa: S311  so that test runs side by side seldom meet
    offsets = filter(_is_free, itertools.cycle([*OFFSETS[first:], *OFFSETS[:first]]))
    numbers = itertools.count(1)

    def make(engine: str) -> Project:
        offset = next(offsets)
        project = Project(workspace / f"project-{next(numbers)}", engine)
        project.folder.mkdir()
        project.ok("config", "set", "engine", engine)
        project.ok("config", "set", "ports.offset", str(offset))
        if engine == "docker":
            project.ok("config", "set", "images.source", "offline")
        return project

    return make


@pytest.fixture(scope="session")
def new_project(engine: str, servers: None, make_project: Callable[[str], Project]) -> Iterator[Callable[[], Project]]:
    """Makes projects; whatever they started is gone when the last test on this engine is over."""
    made: list[Project] = []

    def make() -> Project:
        made.append(make_project(engine))
        return made[-1]

    yield make
    for project in made:
        project.remove()


@pytest.fixture(scope="session")
def first_up(new_project: Callable[[], Project]) -> tuple[Project, float]:
    """A project that is up, and the seconds that took."""
    shared = new_project()
    began = time.monotonic()
    shared.ok("up", "--no-seed")
    return shared, time.monotonic() - began


@pytest.fixture(scope="session")
def project(first_up: tuple[Project, float]) -> Project:
    """The stack that all tests share, up and empty; a test that breaks it mends it."""
    return first_up[0]


@pytest.fixture
def docker_project(offline_images: None, make_project: Callable[[str], Project]) -> Iterator[Project]:
    """A project of the test's own on Docker, with nothing in it yet; removed when the test is over."""
    project = make_project("docker")
    yield project
    project.remove()


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


def _cannot_be_had(what: str) -> NoReturn:
    """Skip; in CI, where everything must run, that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have what the tests need: {what}")
    pytest.skip(what)


def _is_free(offset: int) -> bool:
    return all(ports.is_free("127.0.0.1", number) for _, number in Ports(offset=offset).numbers())
