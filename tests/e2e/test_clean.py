"""`make clean`: what both engines have is removed by one question, or nothing is."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.conftest import SHOPFDS, Project
from tests.e2e.conftest import a_volume, docker, of_project

MAKEFILE = Path(__file__).parents[2] / "Makefile"
PART = ("--only", "postgres", "--no-seed")


@pytest.fixture
def checkout(make_project: Callable[[str], Project]) -> Iterator[Project]:
    """A checkout with a .venv, on which nothing was done yet."""
    project = make_project("local")
    shutil.copy(MAKEFILE, project.folder)
    program = project.folder / ".venv" / "bin" / "shopfds"
    program.parent.mkdir(parents=True)
    program.symlink_to(SHOPFDS)
    yield project
    project.run("down", "--volumes", "--everywhere", "--yes")


def clean(
    project: Project, *arguments: str, env: Mapping[str, str] | None = None, within: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    environment = project.environment(env)
    environment.pop("MAKEFLAGS", None)  # of the `make test` that we may be part of
    return subprocess.run(
        [*within, "make", "clean", *arguments],
        cwd=project.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def contents(project: Project) -> set[str]:
    return {path.name for path in project.folder.iterdir()}


def local_data(project: Project) -> Path:
    """A file as a node of the local engine leaves it."""
    file = project.folder / ".shopfds" / "local" / "volumes" / "redis-node-1" / "data" / "nodes.conf"
    file.parent.mkdir(parents=True)
    file.write_text("")
    return file


def test_what_both_engines_have_is_removed_by_one_question(
    local_servers: None, offline_images: None, checkout: Project
) -> None:
    checkout.ok("config", "set", "images.source", "offline")
    checkout.ok("up", *PART)
    checkout.ok("down")
    checkout.ok("--engine", "docker", "up", *PART)

    asked = clean(checkout)
    assert asked.returncode != 0
    assert str(checkout.folder / ".shopfds" / "local") in asked.stderr
    assert "Docker volumes" in asked.stderr
    assert ".env" in asked.stderr
    assert {".env", ".shopfds", ".venv", "infrastructure"} <= contents(checkout)
    assert docker("ps", "--quiet", *of_project(checkout))

    done = clean(checkout, "ARGS=--yes")
    assert done.returncode == 0, done.stderr
    assert contents(checkout) == {"Makefile", "shopfds.toml"}
    for kind in (("ps", "--all"), ("volume", "ls"), ("network", "ls")):
        assert docker(*kind, "--quiet", *of_project(checkout)) == ""


def test_nothing_is_removed_while_docker_may_have_data_and_cannot_be_asked(
    local_servers: None, docker_daemon: None, checkout: Project, nobody_listens: Mapping[str, str]
) -> None:
    checkout.ok("render")
    kept = local_data(checkout)
    before = contents(checkout)
    with a_volume(checkout) as volume:
        refused = clean(checkout, "ARGS=--yes", env=nobody_listens)
        assert refused.returncode != 0
        assert "[FAIL] engine docker may have data" in refused.stderr
        assert "does not answer" in refused.stderr
        assert contents(checkout) == before
        assert kept.exists()

        assert clean(checkout, "ARGS=--yes").returncode == 0
        assert volume not in docker("volume", "ls", "--quiet").split()
    assert contents(checkout) == {"Makefile", "shopfds.toml"}


def test_where_docker_was_never_installed_its_data_are_not_asked_for(
    local_servers: None, checkout: Project, without_docker: Mapping[str, str]
) -> None:
    checkout.ok("render", env=without_docker)
    local_data(checkout)
    done = clean(checkout, "ARGS=--yes", env=without_docker)
    assert done.returncode == 0, done.stderr
    assert contents(checkout) == {"Makefile", "shopfds.toml"}


@pytest.mark.parametrize("machine", ["as it is", "no daemon", "no docker"])
def test_where_nothing_was_done_there_is_nothing_to_refuse(
    checkout: Project, nobody_listens: Mapping[str, str], without_docker: Mapping[str, str], machine: str
) -> None:
    env = {"as it is": {}, "no daemon": nobody_listens, "no docker": without_docker}[machine]
    done = clean(checkout, "ARGS=--yes", env=env)
    assert done.returncode == 0, done.stderr
    assert contents(checkout) == {"Makefile", "shopfds.toml"}


def test_without_the_local_servers_what_they_left_is_removed_all_the_same(
    docker_daemon: None, checkout: Project
) -> None:
    if os.geteuid() != 0:
        pytest.skip("hiding the servers needs root")
    kept = local_data(checkout)
    hiding = 'for folder in /usr/lib/postgresql*; do mount -t tmpfs tmpfs $folder; done; exec "$@"'
    without_servers = ("unshare", "--mount", "sh", "-c", hiding, "sh")
    asked = subprocess.run(
        [*without_servers, str(SHOPFDS), "up"], env=checkout.environment(), capture_output=True, text=True, check=False
    )
    assert "PostgreSQL" in asked.stderr
    with a_volume(checkout) as volume:
        done = clean(checkout, "ARGS=--yes", within=without_servers)
        assert done.returncode == 0, done.stderr
        assert volume not in docker("volume", "ls", "--quiet").split()
    assert not kept.exists()
