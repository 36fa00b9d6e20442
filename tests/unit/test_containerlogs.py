"""Following logs: whoever stops listening leaves no client of Docker behind, whatever is being opened then."""

from __future__ import annotations

import psutil

from shopfds_ops.engines import containerlogs

CLIENT = (
    "sh",
    "-c",
    'case "$*" in *--follow*) echo "2026-11-23T14:05:06.789012345Z ready"; exec sleep 60;; esac',
    "docker",
)
"""A command that answers like `docker logs`: a line at once, and then nothing for long."""


def test_whoever_stops_while_logs_are_still_being_opened_leaves_no_process_behind() -> None:
    before = set(psutil.Process().children())
    names = {f"node-{number}": "container" for number in range(40)}
    lines = containerlogs.read(CLIENT, names, since=None, follow=True, tail=None)
    assert next(lines).text == "ready"  # of the first; not all are open yet
    lines.close()  # type: ignore[attr-defined]  it is a generator
    assert set(psutil.Process().children()) <= before
