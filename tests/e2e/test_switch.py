"""One checkout, two engines: each keeps its own data, they never run side by side, and the operator is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import psycopg
import pytest

from shopfds_ops.components import postgres
from tests.conftest import Project
from tests.e2e.conftest import a_volume, add_user, left_over

PART = ("--only", "postgres", "--no-seed")


@pytest.fixture
def checkout(local_servers: None, offline_images: None, make_project: Callable[[str], Project]) -> Iterator[Project]:
    """A project that is switched from engine to engine."""
    project = make_project("docker")
    yield project
    for engine in ("local", "docker"):
        project.run("--engine", engine, "down", "--volumes", "--yes")


def switched(project: Project, engine: str) -> Project:
    project.ok("config", "set", "engine", engine)
    return Project(project.folder, engine)


def names(project: Project) -> set[str]:
    with psycopg.connect(postgres.conninfo(project.stack().live, "shopfds")) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM ecommerce.users")}


def test_each_engine_keeps_its_own_data_and_they_do_not_run_side_by_side(checkout: Project) -> None:
    on_local, on_docker = switched(checkout, "local"), Project(checkout.folder, "docker")
    on_local.ok("up", *PART)
    add_user(on_local, "local")

    switched(checkout, "docker")
    refused_while_the_other_runs(on_docker, "local")
    on_docker.ok("--engine", "local", "down")
    on_docker.ok("up", *PART)
    assert names(on_docker) == set()
    add_user(on_docker, "docker")

    switched(checkout, "local")
    refused_while_the_other_runs(on_local, "docker")
    on_local.ok("--engine", "docker", "down")
    on_local.ok("up", *PART)
    assert names(on_local) == {"local"}
    on_local.ok("down")

    switched(checkout, "docker")
    on_docker.ok("up", *PART)
    assert names(on_docker) == {"docker"}


def refused_while_the_other_runs(project: Project, other: str) -> None:
    """`up` starts nothing and names the remedy, `status` warns, and `engine` tells of both."""
    said = project.run("up", *PART)
    assert said.returncode == 1
    assert f"shopfds --engine {other} down" in said.stderr
    assert left_over(project) == []
    assert f"--engine {other}" in project.run("status").stderr
    told = project.ok("engine")
    assert "local" in told
    assert "docker" in told


def test_secrets_stay_while_the_other_engine_has_data_that_need_them(checkout: Project) -> None:
    on_local, on_docker = switched(checkout, "local"), Project(checkout.folder, "docker")
    on_local.ok("up", *PART)
    add_user(on_local, "local")
    on_local.ok("down")
    switched(checkout, "docker")
    on_docker.ok("up", *PART)
    said = on_docker.run("down", "--volumes", "--yes")
    assert said.returncode == 0, said.stderr
    assert "the secrets stay" in said.stderr

    env = checkout.folder / ".env"
    kept = env.read_text()
    env.unlink()
    said = on_docker.run("up", *PART)
    assert said.returncode == 1
    assert ".env is missing, but the data were made with it" in said.stderr
    env.write_text(kept)

    switched(checkout, "local")
    on_local.ok("up", *PART)
    assert names(on_local) == {"local"}
    on_local.ok("down", "--volumes", "--yes")
    assert not env.exists()


def test_secrets_stay_while_docker_cannot_say_whether_it_has_data(
    checkout: Project, silent_socket: Mapping[str, str]
) -> None:
    on_local, env = switched(checkout, "local"), checkout.folder / ".env"
    on_local.ok("render")
    made = env.read_text()
    said = on_local.run("down", "--volumes", "--yes", env=silent_socket)
    assert said.returncode == 0, said.stderr
    assert "the secrets stay: engine docker may have data" in said.stderr
    assert "does not answer within" in said.stderr
    assert env.read_text() == made

    with a_volume(on_local):
        assert "the secrets stay: engine docker has data" in on_local.run("down", "--volumes", "--yes").stderr
        assert env.read_text() == made
    on_local.ok("down", "--volumes", "--yes")
    assert not env.exists()


def test_forgotten_secrets_are_forgotten_in_the_files_for_docker_too(checkout: Project) -> None:
    files = checkout.folder / "infrastructure" / "docker" / "secrets"
    checkout.ok("render")
    before = {path.name: path.read_text() for path in files.iterdir()}
    assert before
    checkout.ok("--engine", "local", "down", "--volumes", "--yes")
    assert not (checkout.folder / ".env").exists()
    assert not files.exists()
    checkout.ok("render")
    assert all((files / name).read_text() != text for name, text in before.items())


def test_auto_stays_with_the_engine_that_runs_where_both_have_data(checkout: Project) -> None:
    checkout.ok("up", *PART)
    checkout.ok("down")
    checkout.ok("--engine", "local", "up", *PART)
    checkout.ok("config", "set", "engine", "auto")
    chosen = checkout.json("engine")["data"]
    assert (chosen["chosen"], "runs" in chosen["reason"]) == ("local", True)
    checkout.ok("down")
    assert checkout.json("engine")["data"]["chosen"] == "docker"
