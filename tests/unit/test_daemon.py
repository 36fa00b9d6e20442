"""Looking at Docker: every obstacle is named with its remedy, within a time, whatever the docker command says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shopfds_ops.engines import daemon
from shopfds_ops.errors import EngineError

Command = Callable[..., None]
CLIENT = {"Version": "28.2.2", "Context": "default"}


def said(server: object, context: str = "default") -> str:
    return json.dumps({"Client": CLIENT | {"Context": context}, "Server": server})


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    daemon.forget()
    yield
    daemon.forget()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Puts a docker command on an otherwise empty PATH that answers what a real one did."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(answer: str, *, error: str = "", status: int = 0, compose: str = "echo 5.6.1", then: str = "") -> None:
        (tmp_path / "answer").write_text(answer + "\n")
        (tmp_path / "error").write_text(error)
        program = tmp_path / "docker"
        program.write_text(
            "#!/bin/sh\nPATH=/usr/bin:/bin\n"
            f'case "$1" in compose) {compose}; exit ;; {then} esac\n'
            f"cat {tmp_path}/answer; cat {tmp_path}/error >&2; exit {status}\n"
        )
        program.chmod(0o755)

    return put


def test_without_a_docker_command_it_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert daemon.look().cause == "absent"
    with pytest.raises(EngineError, match="not installed") as caught:
        daemon.require()
    assert "--engine docker setup" in caught.value.remedy


def test_what_answers_is_told_with_its_versions(command: Command) -> None:
    command(said({"Version": "20.10.24+dfsg1", "ApiVersion": "1.41"}))
    found = daemon.require()
    assert (found.engine, found.api, found.compose) == ("20.10.24+dfsg1", "1.41", "5.6.1")
    assert found.cause is None


# The words are those of docker 20.10 and 28.2.
OBSTACLES = [
    (
        "down",
        {"error": "Cannot connect to the Docker daemon at unix:///x.sock. Is the docker daemon running?", "status": 1},
        "does not answer at unix:///x.sock",
        "--engine docker setup",
    ),
    ("down", {"error": "error during connect: no such host", "status": 1}, "no such host", "--engine docker setup"),
    (
        "forbidden",
        {"error": "permission denied while trying to connect to the Docker daemon socket at unix:///x", "status": 1},
        "may not use",
        "usermod -aG docker",
    ),
    (
        "old",
        {"error": "Error response from daemon: client version 1.41 is too old. Minimum is 1.44", "status": 1},
        "client version 1.41 is too old",
        "update",
    ),
]


@pytest.mark.parametrize(("cause", "answer", "words", "remedy"), OBSTACLES)
def test_a_daemon_that_cannot_be_used_is_named_with_its_remedy(
    command: Command, cause: str, answer: dict[str, object], words: str, remedy: str
) -> None:
    command(said(None), **answer)
    obstacle = daemon.look().obstacle
    assert obstacle is not None
    assert obstacle.cause == cause
    assert words in obstacle.what
    assert remedy in obstacle.remedy
    assert "\n" not in obstacle.what


@pytest.mark.parametrize(
    ("version", "cause"),
    [("19.03.15", "old"), ("20.9", "old"), ("20.10.0", None), ("29.0.0-rc.1", None), ("dev", None), ("", "down")],
)
def test_the_oldest_daemon_is_20_10(command: Command, version: str, cause: str | None) -> None:
    command(said({"Version": version}))
    assert daemon.look().cause == cause


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ("exit 1", "compose absent"),
        ("echo", "compose absent"),
        ("echo 2.19.1", "compose old"),
        ("echo v2.20.0", None),
        ("echo 5.6.1", None),
    ],
)
def test_the_oldest_compose_is_2_20(command: Command, answer: str, cause: str | None) -> None:
    command(said({"Version": "28.2.2"}), compose=answer)
    assert daemon.look().cause == cause


def test_another_address_than_this_machines_own_is_named(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    command(said(None, context="far"), error="Cannot connect", status=1)
    assert "context" in daemon.look().elsewhere
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    daemon.forget()
    found = daemon.look()
    assert found.obstacle is not None
    assert "DOCKER_HOST" in found.obstacle.remedy


@pytest.mark.parametrize("host", ["tcp://192.0.2.1:2375", "ssh://ops@shop.example"])
def test_a_daemon_on_another_machine_is_refused_since_it_cannot_mount_our_files(
    command: Command, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    command(said({"Version": "28.2.2"}))
    monkeypatch.setenv("DOCKER_HOST", host)
    obstacle = daemon.look().obstacle
    assert obstacle is not None
    assert obstacle.cause == "remote"
    assert host in obstacle.what


@pytest.mark.parametrize("address", ["tcp://192.0.2.1:2376", "ssh://ops@shop.example", "ssh://127.shop.example"])
@pytest.mark.parametrize("version", [":", "sleep 20"], ids=["answers", "hangs"])
def test_a_context_of_another_machine_is_refused_by_the_same_rule_whether_it_answers_or_not(
    command: Command, monkeypatch: pytest.MonkeyPatch, address: str, version: str
) -> None:
    monkeypatch.setattr(daemon, "PATIENCE", 0.5)
    command(
        said({"Version": "28.2.2"}, context="far"),
        then=f"context) echo far {address}; exit ;; version) {version} ;;",
    )
    found = daemon.look()
    assert found.cause == "remote"
    assert found.obstacle is not None
    assert f"context far ({address})" in found.obstacle.what
    assert "docker context use default" in found.obstacle.remedy


@pytest.mark.parametrize(
    "address", ["unix:///run/user/1000/docker.sock", "tcp://127.0.0.1:2375", "tcp://[::1]:2375", "ssh://me@localhost"]
)
@pytest.mark.parametrize("named_by", ["context", "DOCKER_HOST"])
def test_whatever_names_a_daemon_of_this_machine_it_is_not_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch, address: str, named_by: str
) -> None:
    context = "near" if named_by == "context" else "default"
    command(said({"Version": "28.2.2"}, context=context), then=f"context) echo {context} {address}; exit ;;")
    if named_by == "DOCKER_HOST":
        monkeypatch.setenv("DOCKER_HOST", address)
    assert daemon.look().cause is None
    assert named_by in daemon.look().elsewhere


def test_the_default_context_is_not_asked_for(command: Command, tmp_path: Path) -> None:
    command(said({"Version": "28.2.2"}), then=f"context) touch {tmp_path}/asked; exit ;;")
    assert daemon.look().cause is None
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("volumes", "known"),
    [("echo stack_data", True), (":", False), ("exit 1", None), ("echo stack_data; exit 1", None), ("sleep 20", None)],
)
def test_a_daemon_that_does_not_say_which_volumes_it_has_is_not_taken_for_an_empty_one(
    command: Command, monkeypatch: pytest.MonkeyPatch, volumes: str, known: bool | None
) -> None:
    command(said({"Version": "28.2.2"}), then=f"volume) {volumes}; exit ;;")
    assert daemon.look().cause is None
    monkeypatch.setattr(daemon, "PATIENCE", 0.5)
    assert daemon.has_volumes("stack") is known


def test_volumes_are_known_without_compose_and_unknown_without_a_daemon(command: Command) -> None:
    command(said({"Version": "28.2.2"}), compose="exit 1", then="volume) echo stack_data; exit ;;")
    assert daemon.look().daemon_obstacle is None
    assert daemon.has_volumes("stack") is True
    daemon.forget()
    command(said(None), error="Cannot connect", status=1, then="volume) echo stack_data; exit ;;")
    assert daemon.has_volumes("stack") is None
    assert daemon.silence().cause == "down"


def test_a_plugin_that_hangs_does_not_hang_us(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "PATIENCE", 0.5)
    command(said({"Version": "28.2.2"}), compose="sleep 20 & wait")
    began = time.monotonic()
    assert daemon.look().cause == "compose absent"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "5",
        "null",
        '{"Server": "none"}',
        "{}",
        '{"Server": []}',
        '{"Client": null, "Server": null}',
    ],
)
def test_whatever_the_command_prints_the_answer_is_an_obstacle(command: Command, text: str) -> None:
    command(text)
    assert daemon.look().cause == "down"


def test_it_is_asked_once_until_it_is_forgotten(command: Command) -> None:
    command(said({"Version": "28.2.2"}))
    first = daemon.look()
    command(said(None), error="Cannot connect", status=1)
    assert daemon.look() is first
    daemon.forget()
    assert daemon.look().cause == "down"
