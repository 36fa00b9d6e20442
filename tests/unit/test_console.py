"""The console: ASCII only, nothing cropped, data on stdout and everything else on stderr."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shopfds_ops import console
from shopfds_ops.errors import ShopfdsError
from shopfds_ops.events import Note, Progress, TaskEvent
from shopfds_ops.result import Message, Result, Table

WILD = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)


def squeezed(text: str) -> str:
    return "".join(text.split())


@WILD
@given(text=st.text(max_size=40))
def test_whatever_is_said_is_ascii(capsys: pytest.CaptureFixture[str], text: str) -> None:
    table = Table(text, (text, f">{text}"), ((text, text),), caption=text)
    console.show(Result(text, {text: text}, (table,), (Message("warning", text, text),)), "table")
    console.show(Result(text, {text: text}), "json")
    console.fail(ShopfdsError(text, remedy=text, details=text))
    with console.progress() as sink:
        sink(Note("info", text))
        sink(TaskEvent(text, "failed", text, 1.0))
        sink(Progress(text, 1, 2, text))
    captured = capsys.readouterr()
    assert captured.out.isascii()
    assert captured.err.isascii()


@WILD
@given(text=st.text(max_size=40))
def test_escaping_keeps_what_is_ascii_already(text: str) -> None:
    shown = console.ascii_only(text)
    assert shown.isascii()
    if text.isascii():
        assert shown == text


def test_square_brackets_are_text_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(Result("x", None, (Table("t", ("c",), (("[red]a[/red] :smile:",),)),)), "table")
    console.say(Message("fail", "[bold]it[/bold] :warning:"))
    captured = capsys.readouterr()
    assert "[red]a[/red] :smile:" in captured.out
    assert captured.err == "[FAIL] [bold]it[/bold] :warning:\n"


# -- tables ------------------------------------------------------------------------------------------------------


def test_a_piped_table_is_wider_than_any_terminal_and_shows_every_cell_on_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    row = tuple(letter * 40 for letter in "abcdefg")
    console.show(Result("x", None, (Table("t", tuple("1234567"), (row,)),)), "table")
    [line] = [line for line in capsys.readouterr().out.splitlines() if "aaa" in line]
    assert all(cell in line for cell in row)


@WILD
@given(rows=st.lists(st.tuples(PRINTABLE, st.integers(1, 600)), min_size=1, max_size=3))
def test_no_character_of_a_cell_is_lost_however_long_it_is(
    capsys: pytest.CaptureFixture[str], rows: list[tuple[str, int]]
) -> None:
    cells = tuple((text * times, "end") for text, times in rows)
    console.show(Result("x", None, (Table("", ("long", "short"), cells),)), "table")
    shown = capsys.readouterr().out
    for text, times in rows:
        for character in set(text) - set("|-+"):
            assert shown.count(character) >= text.count(character) * times


def test_title_and_caption_are_not_cropped(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(Result("x", None, (Table("T" * 900, ("c",), (("x",),), caption="C" * 900),)), "table")
    shown = capsys.readouterr().out
    assert squeezed(shown).count("T") == 900
    assert squeezed(shown).count("C") == 900


def test_a_column_marked_for_the_right_is_aligned_and_loses_its_mark(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(Result("x", None, (Table("", (">rows",), (("1",), ("100",))),)), "table")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == "rows"
    assert lines[-2:] == ["   1", " 100"]


# -- streams -----------------------------------------------------------------------------------------------------


def test_json_on_stdout_is_one_document_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("never shown", ("c",), (("x",),))
    with console.progress() as sink:
        sink(Note("warning", "a note"))
        sink(TaskEvent("step", "changed", "", 0.5))
        console.show(Result("status", {"a": 1}, (table,), (Message("fail", "bad", "mend"),), 1), "json")
    captured = capsys.readouterr()
    assert json.loads(captured.out)["messages"] == [{"level": "fail", "text": "bad", "remedy": "mend"}]
    assert "a note" in captured.err
    assert "step" in captured.err
    assert "never shown" not in captured.out + captured.err


@WILD
@given(text=st.text(max_size=30))
def test_json_keeps_any_text_exactly(capsys: pytest.CaptureFixture[str], text: str) -> None:
    console.show(Result("x", {"text": text}), "json")
    assert json.loads(capsys.readouterr().out)["data"]["text"] == text


def test_tables_go_to_stdout_and_messages_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(Result("x", None, (Table("t", ("c",), (("cell",),)),), (Message("ok", "fine", "go on"),)), "table")
    captured = capsys.readouterr()
    assert "cell" in captured.out
    assert "fine" not in captured.out
    assert captured.err == "[OK] fine\n    -> go on\n"


@pytest.mark.parametrize(
    ("level", "line"),
    [("ok", "[OK] x"), ("fail", "[FAIL] x"), ("warning", "[WARNING] x"), ("skip", "[SKIP] x"), ("info", "x")],
)
def test_every_level_has_its_marker(level: str, line: str) -> None:
    assert console.marked(level, "x").plain == line  # type: ignore[arg-type]


def test_an_error_says_what_and_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    console.fail(ShopfdsError("port 7000 is taken", remedy="stop it", details="line one\nline two"))
    captured = capsys.readouterr()
    assert captured.err == "[FAIL] port 7000 is taken\n    -> stop it\nline one\nline two\n"
    assert captured.out == ""


def test_long_messages_are_one_line_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    console.say(Message("fail", "word " * 300, "do " * 300))
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_progress_says_one_plain_line_for_each_end_and_none_for_what_is_under_way(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with console.progress() as sink:
        sink(TaskEvent("redis-node-1", "started", "refused"))
        sink(Progress("orders", 5, 10, "rows"))
        sink(TaskEvent("redis-node-1", "done", "", 1.25))
        sink(TaskEvent("broken", "failed", "the disk is full", 0.5))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("[OK] redis-node-1")
    assert lines[0].endswith("s")
    assert lines[1].startswith("[FAIL] broken")
    assert lines[1].endswith("the disk is full")


def test_nothing_is_coloured_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(Result("x", None, (Table("t", ("c",), (("[OK] running",),)),), (Message("fail", "x"),)), "table")
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
