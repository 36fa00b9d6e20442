"""Which images a stack takes when nobody says so, on a machine where no registry answers; and that it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Project

PART = ("--only", "postgres", "--no-seed")


@pytest.fixture
def checkout(local_servers: None, offline_images: None, make_project: Callable[[str], Project]) -> Iterator[Project]:
    """A project that takes what images there are, in a world without a registry."""
    project = make_project("docker")
    project.ok("config", "set", "images.source", "auto")
    for server, image in (("postgres", "postgres:17"), ("redis", "redis:7.4"), ("rabbitmq", "rabbitmq:4.1")):
        project.ok("config", "set", f"images.{server}", f"127.0.0.1:9/{image}")
    yield project
    for engine in ("local", "docker"):
        project.run("--engine", engine, "down", "--volumes", "--yes")


def up(project: Project, engine: str) -> tuple[str, list[str]]:
    """Its status after `up`, and what it said of images."""
    done = project.run("--engine", engine, "up", *PART)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line.partition("images: ")[2] for line in done.stderr.splitlines() if "images: " in line]


def test_docker_takes_the_images_that_are_here_whatever_the_local_engine_rendered(checkout: Project) -> None:
    status, said = up(checkout, "local")
    assert "(engine local, packages: postgres" in status
    assert said == []
    checkout.ok("--engine", "local", "down")

    status, said = up(checkout, "docker")
    assert "(engine docker, offline images: postgres" in status
    assert said == ["offline, because they are here, and the official ones are not"]

    _, said = up(checkout, "docker")
    assert said == ["offline, because the containers of this stack are made of them"]

    checkout.ok("--engine", "docker", "down")
    _, said = up(checkout, "docker")
    assert said == ["offline, because the data of this stack were made with them"]
