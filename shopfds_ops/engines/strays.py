"""Processes of a stack that run outside its supervisor: after a crash of it, or daemons that servers leave behind.

A stack is known by its data folder. Its processes carry two variables in their environment; servers that write their
title over it (PostgreSQL, Redis) are known by their working directory, which is their volume.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Set

import psutil

from shopfds_ops.errors import EngineError
from shopfds_ops.settings import NODE_VARIABLE, STACK_VARIABLE, VOLUMES

GRACE_SECONDS = 20.0
KILL_SECONDS = 10.0
TITLE_WRITERS = frozenset({"postgres", "redis-server"})
_VOLUME = re.compile(rf"(?P<stack>/.+)/{VOLUMES}/(?P<node>[a-z0-9-]+)(/|$| )")


def owner(process: psutil.Process) -> tuple[str, str] | None:
    """(stack, node) of a process that some stack started; None for others, and for those we may not look at."""
    try:
        environment = process.environ()
        stack, node = environment.get(STACK_VARIABLE), environment.get(NODE_VARIABLE)
        if stack and node:
            return stack, node
        if process.name() in TITLE_WRITERS and (match := _VOLUME.match(process.cwd())):
            return match["stack"], match["node"]
    except (psutil.Error, OSError):
        return None
    return None


def _all(stack: str, nodes: Set[str] | None) -> Iterator[tuple[str, psutil.Process]]:
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        belongs = owner(process)
        if belongs is not None and belongs[0] == stack and (nodes is None or belongs[1] in nodes):
            yield belongs[1], process


def find(stack: str, nodes: Set[str] | None) -> dict[str, int]:
    """Nodes (all, if None) of `stack` with a process, and that process's id: the oldest one of each node."""
    found: dict[str, int] = {}
    for name, process in _all(stack, nodes):
        found.setdefault(name, process.pid)
    return found


def end(stack: str, nodes: Set[str] | None) -> list[str]:
    """End all processes of these nodes that still run, gracefully if they let us. Returns the nodes that had any.

    Only for nodes that no supervisor runs: it would start them again.
    """
    processes: list[psutil.Process] = []
    names: list[str] = []
    for name, process in _all(stack, nodes):
        processes.append(process)
        if name not in names:
            names.append(name)
    for process in processes:
        _send(process, "terminate")
    _, alive = psutil.wait_procs(processes, timeout=GRACE_SECONDS)
    for process in alive:
        _send(process, "kill")
    _, alive = psutil.wait_procs(alive, timeout=KILL_SECONDS)
    if alive:
        pids = ", ".join(str(process.pid) for process in alive)
        raise EngineError(f"processes {pids} of this stack do not end", remedy="end them by hand, then run it again")
    return names


def _send(process: psutil.Process, method: str) -> None:
    try:
        getattr(process, method)()
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied:
        raise EngineError(
            f"process {process.pid} of this stack belongs to another user", remedy="run this command as that user"
        ) from None
