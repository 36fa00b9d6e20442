"""The rendered folder on its own: plain `docker compose` makes the stack of it, keeps it, and loses nothing."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from services.common.cluster_nodes import REPLICATION_USER, connect, parse_nodes
from shopfds_ops.components.base import Live
from shopfds_ops.components.postgres import PRIMARY, conninfo
from shopfds_ops.components.redis_cluster import CREATE_JOB, NAMES
from shopfds_ops.components.redis_users import ADMIN, PASSWORDS
from shopfds_ops.engines.choice import compose_files
from shopfds_ops.engines.compose import FILE
from shopfds_ops.render import Output
from shopfds_ops.settings import INFRASTRUCTURE
from tests.conftest import Project
from tests.unit.composed import CASES, compose

HEALTHY_SECONDS = 120
"""SC-012."""
PATIENCE = 60
"""Seconds for what the servers do by themselves."""


class Alone:
    """A project whose CLI has rendered, and looks on from then."""

    def __init__(self, project: Project) -> None:
        project.ok("render")
        self.project = project
        self.file = project.folder / INFRASTRUCTURE / "docker" / FILE

    @property
    def live(self) -> Live:
        return self.project.stack().live

    def docker(self, *arguments: str) -> str:
        """What `docker compose ARGUMENTS` says on both streams; insists on exit code 0."""
        done = subprocess.run(
            ["docker", "compose", "--ansi=never", "-f", str(self.file), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def said(self, service: str, words: str) -> bool:
        return words in self.docker("logs", "--no-log-prefix", service)

    def redis(self, node: str) -> redis.Redis:
        """The admin's client of one node."""
        live = self.live
        return connect(*live.address(node, "client"), ADMIN, live.secrets[PASSWORDS[ADMIN]])

    def members(self) -> dict[str, tuple[str, int]]:
        """Id and address of every node of the cluster, as the first one knows them."""
        table = parse_nodes(str(ask(self.redis(NAMES[0]), "CLUSTER NODES")))
        return {peer.id: (peer.host, peer.port) for peer in table}


def ask(client: redis.Redis, *words: object) -> Any:
    with client:
        return client.execute_command(*words)  # type: ignore[no-untyped-call]


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.5)


@pytest.fixture(scope="module")
def alone(offline_images: None, make_project: Callable[[str], Project]) -> Iterator[Alone]:
    """The stack as `docker compose up` alone makes it. The tests below go on from one another."""
    project = make_project("docker")
    made = Alone(project)
    began = time.monotonic()
    made.docker("up", "-d", "--wait")
    seconds = time.monotonic() - began
    assert seconds < HEALTHY_SECONDS
    yield made
    made.docker("down", "--volumes")
    project.remove()


@pytest.mark.parametrize("case", CASES)
def test_compose_takes_the_file_without_a_word(docker_daemon: None, case: str, tmp_path: Path) -> None:
    world = compose(case, tmp_path)
    Output(tmp_path).write({path: text.encode() for path, text in world.files.items()})
    done = subprocess.run(
        ["docker", "compose", "-f", str(tmp_path / FILE), "config", "-q"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_up_would_initialize_is_there_already(alone: Alone) -> None:
    live = alone.live
    steps = {step.name: step for component in alone.project.stack().components for step in component.steps(live)}
    # The heartbeat keys are the CLI's own: by them it proves that each shard takes writes.
    open_steps = {name for name, step in steps.items() if step.check() is not None}
    assert open_steps <= {"redis-cluster.heartbeat-keys"}
    assert {"postgres.replication", "redis-cluster.replicas", "rabbitmq.delivery"} <= steps.keys() - open_steps


def test_down_and_up_again_keeps_all_data_and_every_address(alone: Alone) -> None:
    before = alone.members()
    with psycopg.connect(conninfo(alone.live, "shopfds"), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA kept")
    owner = next(name for name in NAMES if _takes(alone, name))
    alone.docker("down")
    alone.docker("up", "-d", "--wait")
    assert alone.members() == before
    assert ask(alone.redis(owner), "GET", "kept") == "yes"
    with psycopg.connect(conninfo(alone.live, "shopfds"), autocommit=True) as connection:
        connection.execute("DROP SCHEMA kept")
    assert len(before) == len(NAMES)


def _takes(alone: Alone, node: str) -> bool:
    """Whether the node is the master that takes the key."""
    try:
        return bool(ask(alone.redis(node), "SET", "kept", "yes"))
    except redis.ResponseError as error:
        assert str(error).startswith("MOVED")
        return False


def test_the_job_may_run_again_at_any_time(alone: Alone) -> None:
    before = alone.members()
    alone.docker("kill", CREATE_JOB)
    alone.docker("up", "-d", "--wait", CREATE_JOB)
    assert alone.members() == before


def test_data_of_another_release_are_refused_in_one_line_that_names_both(alone: Alone) -> None:
    file = '"$PGDATA/PG_VERSION"'
    major = alone.docker("exec", "-T", PRIMARY, "sh", "-c", f"cat {file}; echo 99 > {file}").strip()
    alone.docker("restart", PRIMARY)
    eventually(
        lambda: alone.said(
            PRIMARY, f"made by PostgreSQL 99, and this is PostgreSQL {major}: start it with PostgreSQL 99"
        )
    )
    alone.docker("run", "--rm", "--no-deps", "--entrypoint", f"sh -c 'echo {major} > {file}'", PRIMARY)
    alone.docker("up", "-d", "--wait", PRIMARY)


def test_a_master_that_lost_its_data_is_not_opened_and_up_brings_them_back(alone: Alone) -> None:
    """Its replica holds the last copy, and would copy the emptiness if it could."""
    victim = next(name for name in NAMES if _takes(alone, name))
    alone.docker("down")
    place = compose_files(alone.project.folder, alone.project.stack().settings)
    volume = f"{place.stack}_{place.volume(victim, 'data')}"
    subprocess.run(["docker", "volume", "rm", volume], check=True, capture_output=True)
    alone.docker("up", "-d")
    eventually(lambda: alone.said(CREATE_JOB, "the cluster is not whole; `shopfds up` mends it"))
    with alone.redis(victim) as client:
        user = client.acl_getuser(REPLICATION_USER)
    assert user is not None
    assert "off" in user["flags"]  # type: ignore[operator]
    alone.project.ok("up", "--no-seed")
    assert CREATE_JOB not in alone.docker("ps", "--all", "--services").split()
    assert any(_reads(alone, name) for name in NAMES)


def _reads(alone: Alone, node: str) -> bool:
    try:
        return bool(ask(alone.redis(node), "GET", "kept") == "yes")
    except redis.ResponseError:
        return False
