"""Going down, and coming back from it: nothing of the user's is removed, and an interrupted `down` is finished."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import Project
from tests.e2e.conftest import left_over, pid_of, supervisor_of


@pytest.fixture(scope="module")
def broker(new_project: Callable[[], Project]) -> Iterator[Project]:
    """A stack of one part, which is quick to start and slow to stop."""
    project = new_project()
    project.ok("up", "--only", "rabbitmq")
    yield project
    project.remove()


@pytest.mark.engines("local")  # its supervisor refuses whatever comes while it ends
def test_while_the_stack_goes_down_others_are_told_so_and_the_next_up_waits(broker: Project) -> None:
    supervisor = supervisor_of(broker)
    going = broker.start("down")
    while supervisor.is_running() and broker.run("ps").returncode == 0 and going.poll() is None:
        pass
    said = broker.run("status")
    assert said.returncode == 1
    assert "is being stopped" in said.stderr or "nothing runs" in said.stderr
    going.kill()
    going.communicate(timeout=10)
    broker.ok("up", "--only", "rabbitmq")
    assert {row["name"] for row in broker.json("ps")["data"] if row["state"] == "running"} == {"rabbitmq"}


def test_a_down_that_was_killed_is_finished_by_the_next(broker: Project) -> None:
    going = broker.start("down")
    with contextlib.suppress(subprocess.TimeoutExpired):
        going.communicate(timeout=1.5)
    going.kill()
    going.communicate(timeout=10)
    broker.ok("down")
    assert left_over(broker) == []
    broker.ok("up", "--only", "rabbitmq")


@pytest.mark.engines("local")
def test_a_supervisor_that_hangs_is_named_and_no_second_one_is_started(broker: Project) -> None:
    supervisor = supervisor_of(broker)
    supervisor.suspend()
    try:
        said = broker.run("up", "--only", "rabbitmq")
    finally:
        supervisor.resume()
    assert said.returncode == 1
    assert "supervisord does not answer" in said.stderr
    assert supervisor_of(broker).pid == supervisor.pid


def test_servers_inherit_nothing_of_the_operators_environment(broker: Project) -> None:
    broker.ok("down")
    broker.ok("up", "--only", "rabbitmq", env={"MY_CLOUD_TOKEN": "not for servers", "PGSSLMODE": "require"})
    process = psutil.Process(pid_of(broker, "rabbitmq"))
    for server in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # some live for a moment only
            assert "MY_CLOUD_TOKEN" not in server.environ()
    assert process.is_running()


@pytest.mark.engines("local")  # what Docker mounts is looked at in test_containers.py
def test_secret_files_are_their_nodes_alone_and_logs_are_not_for_everybody(broker: Project) -> None:
    folder = Path(broker.stack().engine.data)
    files = [path for path in (folder / "secrets").rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o400
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    if os.geteuid() == 0:
        assert {path.owner() for path in files} >= {"postgres", "redis", "rabbitmq"}
    assert not (folder / "logs" / "rabbitmq.log").stat().st_mode & 0o007


@pytest.mark.engines("local")
def test_down_with_volumes_removes_what_is_ours_and_nothing_else(fresh_project: Project) -> None:
    place = fresh_project.folder / "place"
    place.mkdir()
    (place / "mine.txt").write_text("mine")
    (fresh_project.folder / ".env").write_text("MY_OWN=1\n")
    fresh_project.ok("config", "set", "data", "place")
    fresh_project.ok("up", "--only", "postgres", "--no-seed")
    assert sorted(path.name for path in place.iterdir()) != ["mine.txt"]
    fresh_project.ok("down", "--volumes", "--yes")
    assert [path.name for path in place.iterdir()] == ["mine.txt"]
    assert (fresh_project.folder / ".env").read_text() == "MY_OWN=1\n"
