"""Help: every command explains itself in one line, shows an example, and loads nothing heavy to do so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from shopfds_ops.cli.app import app

COMMANDS = (
    "setup up down start stop restart kill ps logs exec status doctor engine init render config migrate seed reset-db"
    " blacklist"
)
HEAVY = ("alembic", "faker", "jinja2", "numpy", "pika", "psycopg", "redis", "sklearn", "sqlalchemy")
LOOK = f"""
import json, sys
sys.argv = ["shopfds", *json.loads(sys.stdin.read())]
from shopfds_ops.cli.app import main
try:
    main()
except SystemExit as end:
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    print(json.dumps([end.code or 0, loaded]), file=sys.stderr)
"""


# Typer has its own copy of click's classes: looked at by what they say of themselves, not by type.
def tree(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from tree(inner, (*path, name))


EVERYTHING = dict(tree(typer.main.get_command(app)))
LEAVES = {path: command for path, command in EVERYTHING.items() if not hasattr(command, "commands")}


def spelled(path: tuple[str, ...]) -> str:
    return " ".join(("shopfds", *path))


def shown(path: tuple[str, ...], flag: str = "--help") -> str:
    done = CliRunner().invoke(app, [*path, flag], env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("path", EVERYTHING, ids=spelled)
def test_every_command_has_help_in_ascii(path: tuple[str, ...]) -> None:
    text = shown(path)
    assert "Usage:" in text
    assert text.isascii()
    assert shown(path, "-h") == text


@pytest.mark.parametrize("path", [path for path in EVERYTHING if path], ids=spelled)
def test_every_command_says_in_one_line_what_it_does(path: tuple[str, ...]) -> None:
    help_text = EVERYTHING[path].help or ""
    first = help_text.strip().split("\n\n")[0].replace("\n", " ")
    assert first
    assert first.rstrip().endswith("."), first
    listed = shown(path[:-1])
    [line] = [line for line in listed.splitlines() if line.split()[:1] == [path[-1]]]
    assert len(line.split()) > 2, "listed without a description"
    assert not line.endswith("..."), f"cut in the list of commands: {line}"


@pytest.mark.parametrize("path", LEAVES, ids=spelled)
def test_every_command_that_takes_something_shows_how(path: tuple[str, ...]) -> None:
    params = LEAVES[path].params
    if len(params) < 3 and not any(param.param_type_name == "argument" for param in params):
        return
    examples = [line for line in shown(path).splitlines() if spelled(path) in line and "Usage:" not in line]
    assert examples, "no example in the help"


@pytest.mark.parametrize("path", LEAVES, ids=spelled)
def test_examples_use_only_options_that_exist(path: tuple[str, ...]) -> None:
    known = {name for param in LEAVES[path].params for name in (*param.opts, *param.secondary_opts)}
    for line in shown(path).splitlines():
        words = line.split("&&")[0].split("|")[-1].split()
        if path == ("exec",) or words[: len(path) + 1] != ["shopfds", *path]:
            continue
        used = {word.split("=")[0] for word in words if word.startswith("-") and len(word) > 1}
        assert used <= known, line


@pytest.mark.parametrize("path", LEAVES, ids=spelled)
def test_every_option_says_what_it_is_for(path: tuple[str, ...]) -> None:
    for param in LEAVES[path].params:
        assert param.help, param.opts


@pytest.mark.parametrize("name", COMMANDS.split())
def test_the_command_that_was_asked_for_exists(name: str) -> None:
    assert (name,) in EVERYTHING


@pytest.mark.parametrize("name", ["redis-cluster"])
def test_the_help_of_init_names_what_can_be_initialized(name: str) -> None:
    assert name in shown(("init",))


def look(*arguments: str) -> tuple[int, list[str]]:
    """Exit code, and the heavy modules that a fresh interpreter loaded for `shopfds ARGUMENTS`."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK], input=json.dumps(arguments), capture_output=True, text=True, check=False
    )
    code, loaded = json.loads(done.stderr.splitlines()[-1])
    return code, loaded


@pytest.mark.parametrize("arguments", [("--help",), ("up", "--help"), ("blacklist", "--help"), ("--version",)])
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert look(*arguments) == (0, [])


def test_no_command_at_all_shows_the_help_and_counts_as_wrong_usage() -> None:
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 2
    assert "Usage:" in done.output


@pytest.mark.parametrize(
    "arguments", [["upp"], ["up", "--no-such-option"], ["config", "nonsense"], ["seed", "--users"]]
)
def test_wrong_usage_is_exit_code_2_and_names_what_is_wrong(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert arguments[-1] in done.output
