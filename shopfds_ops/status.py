"""The state of the stack as one report: nodes as the engine sees them, what their servers say, and the data."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from shopfds_ops import data
from shopfds_ops.engines.base import NodeState, State
from shopfds_ops.engines.choice import OTHER, running
from shopfds_ops.errors import UnknownNameError
from shopfds_ops.result import Message, Problem, Result, Table
from shopfds_ops.stack import Stack
from shopfds_ops.text import bytes_text, uptime_text
from shopfds_ops.topology import Node

ALIVE: frozenset[State] = frozenset({"running"})
MARKS: dict[State, str] = {
    "running": "[OK] running",
    "paused": "[FAIL] paused",
    "restarting": "[FAIL] restarting",
    "stopped": "[FAIL] stopped",
    "failed": "[FAIL] failed",
    "unknown": "[FAIL] unknown",
}
NODES = "nodes"


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node: what it is, and what the engine knows of it. Memory and its limit in bytes."""

    name: str
    component: str
    role: str
    state: State
    pid: int | None
    started_at: dt.datetime | None
    ports: tuple[int, ...]
    memory: int | None
    memory_limit: int
    detail: str
    expected: bool
    """Whether it was asked to run; False for nodes that `up --only` or `--without` left out."""


def nodes(stack: Stack, expected: Collection[str] | None = None) -> tuple[NodeReport, ...]:
    """Every node of the topology with its state; one that the engine does not know is stopped."""
    states = stack.engine.states()
    return tuple(
        _node(node, states.get(node.name), expected is None or node.name in expected) for node in stack.topology
    )


def nodes_table(stack: Stack, found: Sequence[NodeReport]) -> Table:
    """The nodes, below what runs them: the engine, and the servers with their versions."""
    servers = dict.fromkeys(node.image for node in stack.topology)
    versions = ", ".join(f"{name} {'.'.join(map(str, stack.engine.site.version(name)))}" for name in servers)
    title = f"Nodes of '{stack.settings.project}' (engine {stack.engine.name}, {stack.engine.programs}: {versions})"
    now = dt.datetime.now(dt.UTC)
    rows = tuple(
        (
            node.name,
            MARKS[node.state] if node.expected or node.state in ALIVE else f"[SKIP] {node.state}",
            uptime_text(node.started_at, now),
            str(node.pid or "-"),
            " ".join(str(port) for port in node.ports) or "-",
            bytes_text(node.memory) if node.pid else "-",
        )
        for node in found
    )
    return Table(title, ("node", "state", "uptime", ">pid", "ports", ">memory"), rows)


def status(stack: Stack, component: str | None = None, *, expected: Collection[str] | None = None) -> Result:
    """The report of the whole stack, or of one part of it (a component, `nodes` or `data`).

    Exit code 1 if anything in it is not healthy. With `expected` (node names), other nodes may be down.
    """
    names = [item.name for item in stack.components]
    if component is not None and component not in {*names, NODES, data.NAME}:
        raise UnknownNameError("component", component, [*names, NODES, data.NAME])
    found = nodes(stack, expected)
    shown = tuple(node for node in found if component in (None, NODES, node.component))
    tables = [nodes_table(stack, shown)] if component != data.NAME else []
    problems = _node_problems(shown, found)
    content: dict[str, Any] = {"engine": stack.engine.name, "nodes": shown}
    alive = {node.component for node in found if node.state in ALIVE}
    if alive:
        live = stack.live
        work = [item.report for item in stack.components if item.name in alive and component in (None, item.name)]
        if component in (None, data.NAME) and data.SERVER in alive:
            work.append(data.report)
        # A node that is down is named once; what was left out, a node or a whole component, not at all.
        told = {node.name for node in found if not node.expected} | {problem.where for problem in problems}
        told |= {item.name for item in stack.components} - {node.component for node in found if node.expected}
        with ThreadPoolExecutor(max_workers=max(1, len(work))) as pool:
            for report in pool.map(lambda ask: ask(live), work):
                content[report.component] = report.data
                tables += report.tables
                problems += [problem for problem in report.problems if problem.where not in told]
    content["healthy"] = not problems
    content["problems"] = problems
    messages = [*_messages(problems, shown), *_elsewhere(stack)]
    return Result("status", content, tuple(tables), tuple(messages), 1 if problems else 0)


def _node(node: Node, state: NodeState | None, expected: bool) -> NodeReport:
    state = state or NodeState(node.name, "stopped")
    return NodeReport(
        name=node.name,
        component=node.component,
        role=node.role,
        state=state.state,
        pid=state.pid,
        started_at=state.started_at,
        ports=tuple(port.number for port in node.ports if port.published),
        memory=state.memory,
        memory_limit=node.resources.memory * 2**20,
        detail=state.detail,
        expected=expected,
    )


def _node_problems(found: Sequence[NodeReport], every: Sequence[NodeReport]) -> list[Problem]:
    down = [node for node in found if node.expected and node.state not in ALIVE]
    if down and not any(node.state != "stopped" for node in every):
        return [Problem("stack", "nothing runs", "run `shopfds up`")]
    if down and all(node.state == "unknown" for node in down):
        return [Problem("supervisor", f"is gone: {len(down)} nodes run without its supervisor", "`shopfds up`")]
    return [
        Problem(node.name, f"is {node.state}{': ' + node.detail if node.detail else ''}", _remedy(node))
        for node in down
    ]


def _remedy(node: NodeReport) -> str:
    if node.state in ("stopped", "paused"):
        return f"`shopfds start {node.name}`"
    return f"`shopfds logs {node.name}`, then `shopfds up`"


def _elsewhere(stack: Stack) -> list[Message]:
    """A warning where the other engine runs nodes of this stack: they have the ports, and data of their own."""
    other = OTHER[stack.engine.name]
    names = running(stack.project, stack.settings, other)
    if not names:
        return []
    text = f"engine {other} runs {len(names)} nodes of this stack, with data of its own, on the same ports"
    remedy = f"`shopfds --engine {other} status` shows them, `shopfds --engine {other} down` ends them"
    return [Message("warning", text, remedy)]


def _messages(problems: Sequence[Problem], shown: Sequence[NodeReport]) -> list[Message]:
    if not problems:
        running = sum(node.state in ALIVE for node in shown)
        return [Message("ok", f"healthy: {running} nodes" if running else "healthy")]
    return [Message("fail", f"{problem.where} {problem.what}", problem.remedy) for problem in problems]
