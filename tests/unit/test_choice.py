"""Which engine is taken: the truth table of `auto`, and what the choice is made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from shopfds_ops.engines import choice, folders
from shopfds_ops.settings import VOLUMES, Settings

DOWN = "Docker's daemon does not answer"

TABLE = [
    # why docker cannot be used, local has data, docker has data -> engine, words of the reason
    ("", False, False, "docker", "answers"),
    ("", False, True, "docker", "answers"),
    ("", True, False, "local", "data of this stack"),
    ("", True, True, "docker", "answers"),
    (DOWN, False, False, "local", DOWN),
    (DOWN, False, True, "docker", "made on it"),
    (DOWN, True, False, "local", "data of this stack"),
    (DOWN, True, True, "local", DOWN),
]


@pytest.mark.parametrize(("obstacle", "local", "docker", "engine", "words"), TABLE)
def test_auto_takes_docker_but_leaves_no_data_behind(
    obstacle: str, local: bool, docker: bool, engine: str, words: str
) -> None:
    name, reason = choice.decide(obstacle, local=local, docker=docker)
    assert name == engine
    assert words in reason


def test_the_table_is_complete() -> None:
    assert {(bool(row[0]), row[1], row[2]) for row in TABLE} == {
        (obstacle, local, docker) for obstacle in (False, True) for local in (False, True) for docker in (False, True)
    }


@pytest.mark.parametrize("engine", ["docker", "local"])
def test_the_setting_is_obeyed_and_nothing_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: choice.Name
) -> None:
    monkeypatch.setenv("PATH", "")
    name, reason = choice.pick(tmp_path, Settings(engine=engine))
    assert name == engine
    assert "setting" in reason


def test_empty_folders_are_no_data(tmp_path: Path) -> None:
    assert not folders.has_data(tmp_path / "nowhere")
    (tmp_path / VOLUMES / "redis-node-1" / "data").mkdir(parents=True)
    assert not folders.has_data(tmp_path)
    (tmp_path / VOLUMES / "redis-node-1" / "data" / "nodes.conf").write_text("")
    assert folders.has_data(tmp_path)
