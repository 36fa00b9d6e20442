"""Log files as one stream: times of all three servers, order, rotation, and lines as they come."""

from __future__ import annotations

import datetime as dt
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shopfds_ops.engines.base import LogLine
from shopfds_ops.engines.logfiles import EPOCH, last, read, time_of

AT = dt.datetime(2026, 11, 23, 14, 5, 6, 789000, tzinfo=dt.UTC)
LIMIT = 20.0


def postgres(second: int, text: str) -> str:
    return f"2026-11-23 14:05:{second:02}.000 UTC [812] LOG:  {text}"


def redis(second: int, text: str) -> str:
    return f"812:M 23 Nov 2026 14:05:{second:02}.000 * {text}"


def rabbitmq(second: int, text: str) -> str:
    return f"2026-11-23 14:05:{second:02}.000000+00:00 [info] <0.1.0> {text}"


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def texts(lines: Iterator[LogLine]) -> list[str]:
    return [line.text for line in lines]


def everything(files: dict[str, Path]) -> list[LogLine]:
    return list(read(files, since=None, follow=False, tail=None))


# -- times -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-23 14:05:06.789 UTC [812] LOG:  database system is ready to accept connections",
        "2026-11-23 14:05:06.789000+00:00 [info] <0.222.0> Server startup complete",
        "812:M 23 Nov 2026 14:05:06.789 * Ready to accept connections",
        "812:S 23 Nov 2026 14:05:06.789 # Error condition on socket",
        "2026-11-23 14:05:06,789 INFO supervisord started with pid 1",
        "2026-11-23T14:05:06.789Z something",
    ],
)
def test_the_time_of_every_server_is_read_as_utc(line: str) -> None:
    assert time_of(line) == AT


@pytest.mark.parametrize(
    "line",
    [
        "",
        "                _._",
        "initdb: warning: no locale",
        "812:M 23 Foo 2026 14:05:06.789 * no such month",
        "2026-02-30 14:05:06.789 UTC no such day",
        "2026-11-23 25:05:06 no such hour",
        "12:05:06",
        "x" * 80 + " 2026-11-23 14:05:06.789 UTC far inside the line",
    ],
)
def test_a_line_without_a_real_time_has_none(line: str) -> None:
    assert time_of(line) is None


def test_a_date_inside_an_indented_continuation_is_not_the_time_of_the_line() -> None:
    assert time_of("\tINSERT INTO orders VALUES (1, '2020-01-01 00:00:00')") is None


def test_a_time_without_a_fraction_is_whole() -> None:
    assert time_of("2026-11-23 14:05:06 UTC x") == AT.replace(microsecond=0)


@given(st.integers(0, 32_000_000_000_000_000))
def test_any_moment_is_read_back_from_each_format(microseconds: int) -> None:
    moment = EPOCH + dt.timedelta(microseconds=microseconds)
    milliseconds = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[moment.month - 1]
    clock = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}"
    assert time_of(f"{moment.isoformat(sep=' ', timespec='microseconds')} [info] x") == moment
    assert time_of(f"{moment.date()} {clock} UTC [1] LOG:  x") == milliseconds
    assert time_of(f"1:M {moment.day:02} {month} {moment.year} {clock} * x") == milliseconds


@given(st.text(max_size=80))
def test_no_line_breaks_the_reader(line: str) -> None:
    found = time_of(line)
    assert found is None or found.tzinfo is dt.UTC


# -- reading -----------------------------------------------------------------------------------------------------


def test_lines_of_several_nodes_are_merged_by_their_times(tmp_path: Path) -> None:
    files = {
        "postgres-primary": write(tmp_path / "p.log", postgres(1, "p1"), postgres(4, "p4")),
        "redis-node-1": write(tmp_path / "r.log", redis(2, "r2"), redis(5, "r5")),
        "rabbitmq": write(tmp_path / "m.log", rabbitmq(3, "m3"), rabbitmq(6, "m6")),
    }
    found = everything(files)
    assert [line.text.split()[-1] for line in found] == ["p1", "r2", "m3", "p4", "r5", "m6"]
    assert [line.node for line in found][:3] == ["postgres-primary", "redis-node-1", "rabbitmq"]


def test_a_line_without_a_time_stays_with_the_one_before_it(tmp_path: Path) -> None:
    files = {
        "a": write(tmp_path / "a.log", postgres(2, "statement"), "\tSELECT 1,", "\t'2020-01-01 00:00:00'"),
        "b": write(tmp_path / "b.log", redis(1, "before"), redis(3, "after")),
    }
    assert [line.node for line in everything(files)] == ["b", "a", "a", "a", "b"]
    assert [line.at.second for line in everything(files) if line.at] == [1, 2, 2, 2, 3]


def test_lines_before_the_first_time_come_first_and_have_none(tmp_path: Path) -> None:
    files = {
        "a": write(tmp_path / "a.log", "initdb says hello", postgres(2, "x")),
        "b": write(tmp_path / "b.log", redis(1, "y")),
    }
    found = everything(files)
    assert [line.node for line in found] == ["a", "b", "a"]
    assert found[0].at is None


def test_rotated_files_are_read_oldest_first(tmp_path: Path) -> None:
    for number in range(1, 12):
        write(tmp_path / f"a.log.{number}", postgres(20 - number, f"old {number}"))
    write(tmp_path / "a.log", postgres(30, "new"))
    found = texts(read({"a": tmp_path / "a.log"}, since=None, follow=False, tail=None))
    assert [text.split("LOG:  ")[1] for text in found] == [*(f"old {n}" for n in range(11, 0, -1)), "new"]
    assert last(tmp_path / "a.log", 2) == [postgres(19, "old 1"), postgres(30, "new")]


def test_tail_keeps_the_last_lines_of_the_merged_stream(tmp_path: Path) -> None:
    files = {
        "a": write(tmp_path / "a.log", *(postgres(second, "a") for second in (1, 3, 5))),
        "b": write(tmp_path / "b.log", *(redis(second, "b") for second in (2, 4))),
    }
    assert [line.node for line in read(files, since=None, follow=False, tail=3)] == ["a", "b", "a"]
    assert list(read(files, since=None, follow=False, tail=0)) == []
    assert len(list(read(files, since=None, follow=False, tail=99))) == 5


def test_since_leaves_out_what_is_older(tmp_path: Path) -> None:
    file = write(tmp_path / "a.log", "no time", postgres(1, "x"), postgres(2, "y"), "\tmore of y", postgres(3, "z"))
    since = dt.datetime(2026, 11, 23, 14, 5, 2, tzinfo=dt.UTC)
    assert texts(read({"a": file}, since=since, follow=False, tail=None)) == [
        postgres(2, "y"),
        "\tmore of y",
        postgres(3, "z"),
    ]


def test_a_node_that_never_ran_has_no_lines(tmp_path: Path) -> None:
    assert everything({"a": tmp_path / "none.log"}) == []
    assert last(tmp_path / "none.log", 5) == []


def test_bytes_that_are_no_text_do_not_stop_the_reader(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"\xff\xfe broken\nwhole\n")
    found = everything({"a": tmp_path / "a.log"})
    assert len(found) == 2
    assert found[1].text == "whole"


# -- following ---------------------------------------------------------------------------------------------------


class Follower:
    """Reads in a thread, so that a test waits for a line with a bound."""

    def __init__(self, files: dict[str, Path], tail: int | None = None) -> None:
        self._lines: queue.Queue[LogLine] = queue.Queue()
        self._stream = read(files, since=None, follow=True, tail=tail)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        for line in self._stream:
            self._lines.put(line)
            if line.text == "the end":
                return

    def next(self) -> str:
        return self._lines.get(timeout=LIMIT).text


def append(path: Path, text: str) -> None:
    with path.open("a") as handle:
        handle.write(text)


def test_following_gives_old_lines_and_then_new_ones_as_they_come(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.log", postgres(1, "old")), tmp_path / "b.log"
    follower = Follower({"a": one, "b": two})
    assert follower.next() == postgres(1, "old")
    append(one, postgres(2, "new") + "\n")
    assert follower.next() == postgres(2, "new")
    append(two, redis(3, "a file made later") + "\n")
    assert follower.next() == redis(3, "a file made later")
    append(one, "the end\n")
    assert follower.next() == "the end"


def test_following_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    file = write(tmp_path / "a.log", "first")
    follower = Follower({"a": file})
    assert follower.next() == "first"
    append(file, "half")
    append(file, " and whole\nthe end\n")
    assert follower.next() == "half and whole"
    assert follower.next() == "the end"


def test_following_goes_on_after_a_rotation(tmp_path: Path) -> None:
    file = write(tmp_path / "a.log", *(f"line {number}" for number in range(50)))
    follower = Follower({"a": file}, tail=1)
    assert follower.next() == "line 49"
    append(file, "last before the rotation\n")
    file.rename(tmp_path / "a.log.1")
    write(file, "after the rotation", "the end")
    assert follower.next() == "last before the rotation"
    assert follower.next() == "after the rotation"
    assert follower.next() == "the end"
