"""The state of the stack as one report: nodes as the engine sees them, what their servers say, and the data."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from shopfds_ops import data
from shopfds_ops.components.base import Live, Report
from shopfds_ops.engines.base import NodeState, State
from shopfds_ops.errors import UnknownNameError
from shopfds_ops.result import Message, Problem, Result, Table
from shopfds_ops.stack import Stack
from shopfds_ops.text import bytes_text, uptime_text
from shopfds_ops.topology import Node

ALIVE: frozenset[State] = frozenset({"running", "starting"})
MARKS: dict[State, str] = {
    "running": "[OK] running",
    "starting": "[WARNING] starting",
    "restarting": "[FAIL] restarting",
    "stopped": "[FAIL] stopped",
    "failed": "[FAIL] failed",
    "unknown": "[FAIL] unknown",
}
NODES = "nodes"


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node: what it is, and what the engine knows of it. Memory in bytes, its limit in MiB."""

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


def nodes(stack: Stack) -> tuple[NodeReport, ...]:
    """Every node of the topology with its state; one that the engine does not know is stopped."""
    states = stack.engine.states()
    return tuple(_node(node, states.get(node.name)) for node in stack.topology)


def nodes_table(stack: Stack, found: Sequence[NodeReport]) -> Table:
    """The nodes, below what runs them: the engine and the versions of the servers."""
    servers = dict.fromkeys(node.image for node in stack.topology)
    versions = ", ".join(f"{name} {'.'.join(map(str, stack.engine.site.version(name)))}" for name in servers)
    title = f"Nodes of '{stack.settings.project}' (engine {stack.engine.name}: {versions})"
    now = dt.datetime.now(dt.UTC)
    rows = tuple(
        (
            node.name,
            MARKS[node.state],
            uptime_text(node.started_at, now),
            str(node.pid or "-"),
            " ".join(str(port) for port in node.ports) or "-",
            bytes_text(node.memory) if node.pid else "-",
        )
        for node in found
    )
    return Table(title, ("node", "state", "uptime", ">pid", "ports", ">memory"), rows)


def status(stack: Stack, component: str | None = None) -> Result:
    """The report of the whole stack, or of one part of it (a component, `nodes` or `data`). Exit code 1 if anything
    in it is not healthy."""
    names = [item.name for item in stack.components]
    if component is not None and component not in {*names, NODES, data.NAME}:
        raise UnknownNameError("component", component, [*names, NODES, data.NAME])
    found = nodes(stack)
    wanted = [item for item in stack.components if component in (None, item.name)]
    shown = tuple(node for node in found if component in (None, NODES, node.component))
    tables = [nodes_table(stack, shown)] if component != data.NAME else []
    problems = _node_problems(shown)
    content: dict[str, Any] = {"engine": stack.engine.name, "nodes": shown}
    if any(node.state in ALIVE for node in found):
        live = stack.live
        alive = {node.component for node in found if node.state in ALIVE}
        work: list[Callable[[Live], Report]] = [item.report for item in wanted if item.name in alive]
        if component in (None, data.NAME):
            work.append(data.report)
        with ThreadPoolExecutor(max_workers=max(1, len(work))) as pool:
            for report in pool.map(lambda ask: ask(live), work):
                content[report.component] = report.data
                tables += report.tables
                down = {problem.where for problem in problems}
                problems += [problem for problem in report.problems if problem.where not in down]
    elif component == data.NAME:
        problems.append(Problem(data.NAME, "nothing runs", "run `shopfds up`"))
    content["healthy"] = not problems
    content["problems"] = problems
    return Result("status", content, tuple(tables), tuple(_messages(problems, found)), 1 if problems else 0)


def _node(node: Node, state: NodeState | None) -> NodeReport:
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
        memory_limit=node.resources.memory,
        detail=state.detail,
    )


def _node_problems(found: Sequence[NodeReport]) -> list[Problem]:
    down = [node for node in found if node.state not in ALIVE]
    if down and len(down) == len(found) and all(node.state == "stopped" for node in down):
        return [Problem("stack", "nothing runs", "run `shopfds up`")]
    problems = []
    for node in down:
        remedy = (
            f"`shopfds start {node.name}`" if node.state == "stopped" else f"`shopfds logs {node.name}`, `shopfds up`"
        )
        problems.append(Problem(node.name, f"is {node.state}{': ' + node.detail if node.detail else ''}", remedy))
    return problems


def _messages(problems: Sequence[Problem], found: Sequence[NodeReport]) -> list[Message]:
    if not problems:
        return [Message("ok", f"healthy: {len(found)} nodes")]
    return [Message("fail", f"{problem.where} {problem.what}", problem.remedy) for problem in problems]
