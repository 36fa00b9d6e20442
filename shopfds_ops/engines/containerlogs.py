"""Reading the logs of containers as one stream, in the order of the times at which the daemon received the lines."""

from __future__ import annotations

import datetime as dt
import heapq
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from queue import SimpleQueue

from shopfds_ops.engines.base import LogLine

RETURN_INTERVAL = 1.0
"""Seconds between looks at whether a container that ended is there again."""
RENEWAL_INTERVAL = 10.0
"""Seconds after which a log is followed anew, from where it was read to: a client of Docker 20.10 that came at the very
moment at which its container was started was seen to stay silent for ever."""
STAMP_LENGTH = len("2026-11-23T14:05:06.789012345Z")

Stamped = tuple[str, LogLine]
"""The daemon's time, of fixed width (so it sorts as text) and finer than a datetime, and the line."""


def read(
    docker: Sequence[str],
    containers: Mapping[str, str],
    *,
    since: dt.datetime | None,
    follow: bool,
    tail: int | None,
) -> Iterator[LogLine]:
    """Lines of all containers (node -> container's name) merged by time. `docker`: the client's command.

    `tail` keeps the last lines of the merged stream. With `follow` it never ends; containers that are restarted,
    replaced or made later are picked up.
    """
    options = ["--tail", "all" if tail is None else str(max(tail, 1))]
    if since is not None:
        options += ["--since", since.isoformat()]
    seen: dict[str, str] = {}
    processes = {node: _open(docker, [*options, name]) for node, name in containers.items()}
    try:
        past = _merged(processes, seen)
        yield from past if tail is None else deque(past, maxlen=tail)
    finally:
        _end(processes)
    if follow:
        begin = since.isoformat() if since is not None else ""
        yield from _followed(docker, containers, {node: seen.get(node, begin) for node in containers})


def _merged(processes: Mapping[str, subprocess.Popen[str]], seen: dict[str, str]) -> Iterator[LogLine]:
    """The lines in order; notes in `seen` how far each node's log was read."""
    for stamp, line in heapq.merge(*(_lines(process, node) for node, process in processes.items()), key=itemgetter(0)):
        seen[line.node] = stamp
        yield line


def _followed(docker: Sequence[str], containers: Mapping[str, str], seen: Mapping[str, str]) -> Iterator[LogLine]:
    """Lines later than those in `seen`, as they come. A thread reads each log, as long as somebody listens."""
    lines: SimpleQueue[LogLine] = SimpleQueue()
    processes: dict[str, subprocess.Popen[str]] = {}
    over = threading.Event()

    def pursue(node: str, name: str, after: str) -> None:
        while not over.is_set():
            since = ["--since", after] if after else []
            process = processes[node] = _open(docker, ["--follow", *since, name])
            if over.is_set():  # the end came while it was opened, perhaps too late for who ends them all
                _end({node: process})
            renewal = threading.Timer(RENEWAL_INTERVAL, process.kill)
            renewal.daemon = True
            renewal.start()
            for stamp, line in _lines(process, node, whole=True):
                if stamp > after:  # --since includes the line that was seen last
                    after = stamp
                    lines.put(line)
            renewal.cancel()
            over.wait(RETURN_INTERVAL)

    threads = [
        threading.Thread(target=pursue, args=(node, name, seen[node]), daemon=True) for node, name in containers.items()
    ]
    for thread in threads:
        thread.start()
    try:
        while True:
            yield lines.get()
    finally:
        over.set()
        _end(processes)
        for thread in threads:
            thread.join()


def _open(docker: Sequence[str], options: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*docker, "logs", "--timestamps", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # where the client writes what the container wrote to its own stderr
        text=True,
        errors="replace",
    )


def _lines(process: subprocess.Popen[str], node: str, *, whole: bool = False) -> Iterator[Stamped]:
    """What the container wrote; the client's own words (no such container) carry no time. `whole`: without a line that
    was cut off by the client's end."""
    assert process.stdout is not None  # noqa: S101  it was opened with a pipe
    for raw in process.stdout:
        if whole and not raw.endswith("\n"):
            return
        stamp, _, text = raw.rstrip("\n").partition(" ")
        if len(stamp) == STAMP_LENGTH and stamp.endswith("Z"):
            yield stamp, LogLine(node, dt.datetime.fromisoformat(stamp), text)


def _end(processes: Mapping[str, subprocess.Popen[str]]) -> None:
    for process in list(processes.values()):
        process.kill()
        process.wait()
