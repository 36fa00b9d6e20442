"""What only the docker engine does: containers that pause, crash and come back, and what Compose alone gets wrong."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shopfds_ops.errors import EngineError, NotRunningError
from tests.conftest import Project

NODE, OTHER = "redis-node-1", "redis-node-2"
PATIENCE = 30.0


@pytest.fixture(scope="module")
def shop(offline_images: None, make_project: Callable[[str], Project]) -> Iterator[Project]:
    """A project of which two nodes run."""
    project = make_project("docker")
    project.ok("start", NODE, OTHER)
    yield project
    project.remove()


@pytest.fixture
def node(shop: Project) -> str:
    """A node that runs when the test begins, whatever the one before did; so does the other one."""
    shop.ok("start", NODE, OTHER)
    return NODE


def container(project: Project, node: str = NODE) -> dict[str, Any]:
    """What `docker inspect` says of a node's container."""
    stack = project.stack().engine.data.removeprefix("the Docker volumes ").removesuffix("_*")
    done = subprocess.run(["docker", "inspect", f"{stack}-{node}-1"], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


def state(project: Project, node: str = NODE) -> str:
    return str(next(row["state"] for row in project.json("ps")["data"] if row["name"] == node))


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.1)


def rotate(project: Project, name: str, value: str) -> None:
    file = project.folder / ".env"
    file.write_text(re.sub(f"^{name}=.*$", f"{name}={value}", file.read_text(), flags=re.MULTILINE))


def test_a_paused_node_goes_on_where_it_was(shop: Project, node: str) -> None:
    before = container(shop)
    shop.ok("kill", node, "--signal", "SIGSTOP")
    assert state(shop) == "paused"
    assert f"started: {node}" in shop.run("start", node).stderr
    after = container(shop)
    assert state(shop) == "running"
    assert (after["Id"], after["State"]["StartedAt"]) == (before["Id"], before["State"]["StartedAt"])


def test_a_node_that_crashes_is_started_again(shop: Project, node: str) -> None:
    before = container(shop)["State"]["StartedAt"]
    shop.run("exec", node, "sh", "-c", "kill -s KILL -- -1")
    wait_for(lambda: container(shop)["State"]["StartedAt"] != before and state(shop) == "running")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGABRT"])
def test_a_node_that_was_killed_stays_down(shop: Project, node: str, name: str) -> None:
    shop.ok("kill", node, "--signal", name)
    wait_for(lambda: state(shop) == "stopped")
    time.sleep(1.0)  # the daemon would have started it again after 0.1 s
    assert state(shop) == "stopped"
    assert shop.run("kill", node).returncode == 1


def test_a_signal_that_does_not_kill_leaves_the_node_under_the_daemons_care(shop: Project, node: str) -> None:
    shop.ok("kill", node, "--signal", "SIGWINCH")
    before = container(shop)["State"]["StartedAt"]
    shop.run("exec", node, "sh", "-c", "kill -s KILL -- -1")
    wait_for(lambda: container(shop)["State"]["StartedAt"] != before and state(shop) == "running")


def test_a_node_in_a_crash_loop_has_failed_and_its_last_lines_are_shown(shop: Project, node: str) -> None:
    file = shop.folder / "infrastructure/docker/redis/redis-cluster.conf"
    file.write_text(file.read_text() + "no-such-directive\n")
    said = shop.run("start", node)
    shop.ok("render", "--force")
    assert said.returncode == 1
    assert "failed, exit status 1" in said.stderr
    assert "no-such-directive" in said.stderr
    shop.ok("start", node)
    assert state(shop) == "running"


def test_a_changed_secret_restarts_the_nodes_that_read_it(shop: Project, node: str) -> None:
    rotate(shop, "REDIS_REPLICATION_PASSWORD", "rotated")
    assert f"restarting because their configuration changed: {NODE}, {OTHER}" in shop.run("start", node).stderr
    assert "rotated" in shop.ok("exec", OTHER, "cat", "/run/secrets/redis-auth.conf")
    assert "restarting" not in shop.run("start", node).stderr


@pytest.mark.parametrize("seconds", [0.6, 1.0, 1.4, 1.8])
def test_whoever_is_killed_while_secrets_change_leaves_no_node_with_old_ones(
    shop: Project, node: str, seconds: float
) -> None:
    rotate(shop, "REDIS_REPLICATION_PASSWORD", f"rotated-{seconds}")
    process = shop.start("start", node)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    shop.ok("start", NODE, OTHER)
    for name in (NODE, OTHER):
        assert f"rotated-{seconds}" in shop.ok("exec", name, "cat", "/run/secrets/redis-auth.conf")


def test_without_the_rendered_files_everything_but_starting_works_and_starting_makes_them(
    shop: Project, node: str
) -> None:
    shutil.rmtree(shop.folder / "infrastructure")
    assert state(shop) == "running"
    assert shop.ok("logs", node)
    assert shop.ok("exec", node, "redis-cli", "ping")
    shop.ok("kill", node)
    wait_for(lambda: state(shop) == "stopped")
    assert OTHER in shop.run("stop", OTHER).stderr
    assert not (shop.folder / "infrastructure").exists()
    shop.ok("start", NODE, OTHER)
    assert {state(shop, NODE), state(shop, OTHER)} == {"running"}


def test_credentials_reach_a_command_and_nobody_who_looks_at_processes(shop: Project, node: str) -> None:
    shop.ok("exec", node, "sh", "-c", 'test -n "$REDISCLI_AUTH"')
    process = shop.start("exec", node, "sleep", "8")
    try:
        seen: set[str] = set()

        def both_run() -> bool:
            seen.update(" ".join(item.info["cmdline"] or ()) for item in psutil.process_iter(["cmdline"]))
            return any(f"{NODE}-1 sleep 8" in line for line in seen) and "sleep 8" in seen

        wait_for(both_run)
    finally:
        process.kill()
        process.communicate()
    for value in shop.stack().secrets.values.values():
        assert not [line for line in seen if value in line]


def test_a_command_that_takes_too_long_leaves_nothing_behind(shop: Project, node: str) -> None:
    stack = shop.stack()
    with pytest.raises(EngineError, match="did not end within 1 s"):
        stack.engine.execute(stack.topology.node(node), ("sleep", "4321"), timeout=1.0)
    wait_for(lambda: "4321" not in _processes(shop))


def test_what_a_command_says_and_how_it_ends_comes_back(shop: Project, node: str) -> None:
    stack = shop.stack()
    target = stack.topology.node(node)
    script = 'cat; echo "$WORD" >&2; exit 7'
    done = stack.engine.execute(target, ("sh", "-c", script), stdin="in\n", environment={"WORD": "out"})
    assert (done.exit_status, done.stdout, done.stderr) == (7, "in\n", "out\n")
    with pytest.raises(EngineError, match="no program 'no-such-program'"):
        stack.engine.execute(target, ("no-such-program",))
    shop.ok("stop", node)
    with pytest.raises(NotRunningError, match=f"{node} does not run"):
        stack.engine.execute(target, ("true",))


def test_followed_logs_go_on_over_a_restart_and_leave_no_process_behind(shop: Project, node: str) -> None:
    process = shop.start("logs", node, "--follow", "--tail", "0")
    assert process.stdout is not None
    wait_for(lambda: len(psutil.Process(process.pid).children()) == 1)
    shop.ok("restart", node)
    lines: list[str] = []
    while not lines or "Ready to accept connections" not in lines[-1]:
        lines.append(process.stdout.readline())
    assert any("bye bye" in line for line in lines)
    assert lines == list(dict.fromkeys(lines))
    helpers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    psutil.wait_procs(helpers, timeout=PATIENCE)
    assert not [helper for helper in helpers if helper.is_running()]


def test_the_last_lines_are_those_of_all_nodes_together(shop: Project, node: str) -> None:
    stack = shop.stack()
    nodes = stack.topology.select([NODE, OTHER])
    every = list(stack.engine.logs(nodes))
    assert every == sorted(every, key=lambda line: line.at.timestamp() if line.at else 0.0)
    assert {line.node for line in every} == {NODE, OTHER}
    assert list(stack.engine.logs(nodes, tail=5)) == every[-5:]
    assert list(stack.engine.logs(nodes, tail=0)) == []
    assert list(stack.engine.logs(nodes, since=every[-3].at)) == every[-3:]


def test_memory_is_told_within_its_limit(shop: Project, node: str) -> None:
    memory = shop.stack().engine.states()[node].memory
    if not Path("/sys/fs/cgroup").is_dir():
        pytest.skip("the daemon's control groups are not on this machine")
    assert memory is not None
    assert 2**20 < memory < container(shop)["HostConfig"]["Memory"]


def test_what_compose_alone_needs_is_taken_away(shop: Project, node: str) -> None:
    folder = shop.folder / "infrastructure/docker"
    job = "redis-cluster-create"
    subprocess.run(
        ["docker", "compose", "up", "--detach", "--no-deps", job], cwd=folder, capture_output=True, check=True
    )
    assert container(shop, job)["State"]["Running"]
    shop.ok("start", node)
    assert job not in shop.stack().engine.states()


def test_a_subnet_of_somebody_else_is_named(shop: Project, docker_project: Project) -> None:
    networks = container(shop)["NetworkSettings"]["Networks"]
    taken = next(item["IPAddress"] for name, item in networks.items() if name.endswith("redis-cluster"))
    overlapping = f"{taken.rpartition('.')[0]}.0/24"
    said = docker_project.run("start", NODE, env={"SHOPFDS_DOCKER__SUBNET": overlapping})
    assert said.returncode == 1
    assert f"{overlapping} of this stack overlaps" in said.stderr
    assert "docker.subnet" in said.stderr


def test_a_container_swaps_nothing(shop: Project, node: str) -> None:
    host = container(shop)["HostConfig"]
    assert host["MemorySwap"] == host["Memory"] > 0


def test_official_images_can_be_forced_and_a_missing_one_is_named(shop: Project, node: str) -> None:
    nowhere = {"SHOPFDS_IMAGES__REDIS": "127.0.0.1:1/redis:7.4"}
    said = shop.run("start", node, "--images", "registry", env=nowhere)
    assert said.returncode == 1
    assert "could not be pulled" in said.stderr
    assert state(shop) == "running"


def test_down_with_volumes_leaves_nothing_in_docker(
    offline_images: None, make_project: Callable[[str], Project]
) -> None:
    project = make_project("docker")
    project.ok("start", NODE)
    shutil.rmtree(project.folder / "infrastructure/docker/redis")
    stack = container(project)["Config"]["Labels"]["com.docker.compose.project"]
    assert _belongings(stack)
    project.ok("down")
    assert [kind for kind, _ in _belongings(stack)] == ["volume"]
    project.ok("down", "--volumes", "--yes")
    assert not _belongings(stack)
    assert not (project.folder / "infrastructure/docker/secrets").exists()


def _processes(project: Project) -> str:
    return subprocess.run(
        ["docker", "top", container(project)["Id"]], capture_output=True, text=True, check=True
    ).stdout


def _belongings(stack: str) -> list[tuple[str, str]]:
    """Kind and id of everything that Docker keeps with the label of this Compose project."""
    found = []
    for kind, every in (("container", ["--all"]), ("network", []), ("volume", [])):
        argv = ["docker", kind, "ls", "--quiet", *every, "--filter", f"label=com.docker.compose.project={stack}"]
        names = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
        found += [(kind, name) for name in names]
    return found
