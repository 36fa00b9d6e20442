"""Reading the log files of nodes as one stream, in the order of the times that the servers write into them."""

from __future__ import annotations

import datetime as dt
import heapq
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from shopfds_ops.engines.base import LogLine

FOLLOW_INTERVAL = 0.25
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

# All servers write UTC: PostgreSQL "2026-11-23 14:05:06.789 UTC", RabbitMQ "2026-11-23 14:05:06.789012+00:00",
# Redis "812:M 23 Nov 2026 14:05:06.789".
_ISO = re.compile(r"(\d{4})-(\d{2})-(\d{2})[ T](\d{2}):(\d{2}):(\d{2})(?:[.,](\d{1,6}))?")
_REDIS = re.compile(r"^\d+:[A-Z] (\d{2}) ([A-Z][a-z]{2}) (\d{4}) (\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,6}))?")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def time_of(line: str) -> dt.datetime | None:
    """The time that a log line starts with, in UTC; None if it carries none."""
    head = line[:64]
    if head[:1].isspace():
        return None  # PostgreSQL indents the further lines of a statement, which may hold any date
    if match := _ISO.search(head):
        year, month, day, *clock = match.groups()
    elif match := _REDIS.match(head):
        day, name, year, *clock = match.groups()
        month = str(_MONTHS.index(name) + 1) if name in _MONTHS else "0"
    else:
        return None
    hour, minute, second, fraction = clock
    micro = int((fraction or "0").ljust(6, "0"))
    try:
        return dt.datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), micro, tzinfo=dt.UTC)
    except ValueError:
        return None


def read(files: Mapping[str, Path], *, since: dt.datetime | None, follow: bool, tail: int | None) -> Iterator[LogLine]:
    """Lines of all files merged by time; a line without a time belongs to the one before it.

    `tail` keeps the last lines of the merged stream. With `follow` it never ends; a file that is rotated or made
    later is picked up.
    """
    offsets = {node: _size(path) for node, path in files.items()}
    streams = [_stamped(node, _rotated(path, offsets[node])) for node, path in files.items()]
    merged: Iterator[LogLine] = heapq.merge(*streams, key=lambda line: line.at or EPOCH)
    if since is not None:
        merged = (line for line in merged if line.at is not None and line.at >= since)
    yield from merged if tail is None else deque(merged, maxlen=tail)
    while follow:
        for node, path in files.items():
            size = _size(path)
            if size < offsets[node]:
                rest, _ = _whole_lines(path.with_name(f"{path.name}.1"), offsets[node])  # rotated: its end comes first
                yield from _stamped(node, iter(rest))
                offsets[node] = 0
            if size > offsets[node]:
                text, offsets[node] = _whole_lines(path, offsets[node])
                yield from _stamped(node, iter(text))
        time.sleep(FOLLOW_INTERVAL)


def last(path: Path, lines: int) -> list[str]:
    """The last lines of one file, for an error message; empty if there is none."""
    return list(deque(_rotated(path, _size(path)), maxlen=lines))


def _stamped(node: str, lines: Iterator[str]) -> Iterator[LogLine]:
    at: dt.datetime | None = None
    for line in lines:
        at = time_of(line) or at
        yield LogLine(node, at, line)


def _rotated(path: Path, size: int) -> Iterator[str]:
    """All lines, the rotated files' first: `x.log.2`, `x.log.1`, `x.log`."""
    older = sorted(path.parent.glob(f"{path.name}.[0-9]*"), key=lambda item: int(item.suffix[1:]), reverse=True)
    for file in older:
        with file.open(errors="replace") as handle:
            yield from (line.rstrip("\n") for line in handle)
    if path.is_file():
        with path.open("rb") as binary:
            while binary.tell() < size and (raw := binary.readline()):
                yield raw.decode(errors="replace").rstrip("\n")


def _whole_lines(path: Path, offset: int) -> tuple[list[str], int]:
    try:
        with path.open("rb") as handle:
            handle.seek(offset)
            content = handle.read()
    except FileNotFoundError:  # rotated since we looked
        return [], offset
    end = content.rfind(b"\n") + 1
    return content[:end].decode(errors="replace").splitlines(), offset + end


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
