"""The health gate: waits for nodes by the probes of their components, and knows when a node will not run at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from shopfds_ops.components.base import Component, Live
from shopfds_ops.engines.base import NodeState
from shopfds_ops.steps import Deadline, Gate
from shopfds_ops.topology import Node

STATES_MAX_AGE = 0.5
LAST_LINES = 5


class StateWatch:
    """The engine's states, asked at most twice a second however many gates look."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._lock = threading.Lock()
        self._states: dict[str, NodeState] = {}
        self._at = float("-inf")

    def of(self, node: Node) -> NodeState | None:
        with self._lock:
            if time.monotonic() - self._at > STATES_MAX_AGE:
                self._states = dict(self._live.engine.states())
                self._at = time.monotonic()
            return self._states.get(node.name)

    def start(self, node: Node) -> None:
        """Start a node that turned out to be stopped."""
        with self._lock:
            self._live.engine.start([node])
            self._at = float("-inf")


def gates(
    live: Live,
    components: Sequence[Component],
    nodes: Sequence[Node],
    deadline: Deadline,
    *,
    started: bool = False,
) -> list[Gate]:
    """One gate for each node, named like it. `started`: this command has just started them.

    One of those that is stopped all the same was being stopped when it was looked at: an interrupted `stop` or
    `restart` goes on in the engine. It is started once more.
    """
    watch = StateWatch(live)
    by_name = {component.name: component for component in components}
    return [_gate(live, by_name[node.component], node, watch, deadline, started=started) for node in nodes]


def _gate(
    live: Live, component: Component, node: Node, watch: StateWatch, deadline: Deadline, *, started: bool
) -> Gate:
    again = [node] if started else []

    def probe() -> str | None:
        return component.probe(live, node)

    def failed() -> str | None:
        state = watch.of(node)
        if state is None or state.state not in ("failed", "stopped"):
            return None
        if state.state == "stopped" and again:
            watch.start(again.pop())
            return None
        lines = [line.text for line in live.engine.logs([node], tail=LAST_LINES)]
        said = "".join(f"\n    | {line}" for line in lines)
        exit_status = f", exit status {state.exit_status}" if state.exit_status is not None else ""
        return f"the process is {state.state}{exit_status}. It said last:{said}"

    return Gate(node.name, probe, failed, timeout=deadline.seconds)
