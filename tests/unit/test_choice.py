"""Which engine is taken: the truth table of `auto`, and what the choice is made from."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from shopfds_ops.engines import choice, folders
from shopfds_ops.engines.daemon import Obstacle
from shopfds_ops.errors import EngineError
from shopfds_ops.settings import VOLUMES, Settings

DOWN = Obstacle("down", "Docker's daemon does not answer", "start it")

TABLE = [
    # why docker cannot be used, local has data, docker has data -> engine, words of the reason
    (None, False, False, "docker", "answers"),
    (None, False, True, "docker", "answers"),
    (None, True, False, "local", "Docker has none"),
    (None, True, True, "docker", "answers"),
    (DOWN, False, False, "local", DOWN.what),
    (DOWN, False, True, "docker", "made on it"),
    (DOWN, True, False, "local", "data of this stack"),
    (DOWN, True, True, None, DOWN.what),
]


@pytest.mark.parametrize(("obstacle", "local", "docker", "engine", "words"), [row for row in TABLE if row[3]])
def test_auto_takes_docker_but_leaves_no_data_behind(
    obstacle: Obstacle | None, local: bool, docker: bool, engine: str, words: str
) -> None:
    name, reason = choice.decide(obstacle, local=local, docker=docker)
    assert name == engine
    assert words in reason


@pytest.mark.parametrize(("obstacle", "local", "docker", "engine", "words"), [row for row in TABLE if not row[3]])
def test_auto_asks_which_is_meant_rather_than_show_other_data_today_than_yesterday(
    obstacle: Obstacle, local: bool, docker: bool, engine: None, words: str
) -> None:
    with pytest.raises(EngineError, match=words) as refused:
        choice.decide(obstacle, local=local, docker=docker)
    assert "both engines have data" in refused.value.what
    assert obstacle.remedy in refused.value.remedy
    assert "--engine local" in refused.value.remedy


def test_the_table_is_complete() -> None:
    assert sorted((row[0] is not None, row[1], row[2]) for row in TABLE) == sorted(
        itertools.product((False, True), repeat=3)
    )


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
