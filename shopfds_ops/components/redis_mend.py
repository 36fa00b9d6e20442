"""Makes a Redis Cluster whole: looks at all nodes, plans, applies, and looks again until nothing is left to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis

from services.common.cluster_nodes import (
    REPLICATION_USER,
    Endpoints,
    NodeView,
    connect,
    mask_of,
    observe,
    parse_nodes,
    ranges_of,
)
from shopfds_ops.components.redis_actions import (
    Action,
    AddSlots,
    Create,
    Failover,
    Forget,
    Meet,
    Open,
    Replicate,
    Reset,
)
from shopfds_ops.components.redis_repair import Addresses, plan, unlinked
from shopfds_ops.errors import StepError
from shopfds_ops.events import Note, Sink
from shopfds_ops.steps import Deadline, Run

LOOK_INTERVAL = 0.1
"""Seconds between two looks at the nodes."""
PATIENCE = 3.0
"""Seconds after which an action that did not help is tried again, or the next stronger one."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the six nodes from here, how they reach each other, and how `redis-cli --cluster create` is run."""

    endpoints: Endpoints
    resolve: Callable[[], Addresses]
    """The addresses by which the nodes reach each other, known once they run."""
    username: str
    password: str
    create: Callable[[tuple[str, ...], float], str]
    """Runs it over these nodes, within so many seconds; returns why it failed, or an empty string."""
    timeout: float = 1.0

    def look(self) -> tuple[NodeView, ...]:
        """What all nodes say now."""
        return observe(self.endpoints, self.username, self.password, self.timeout)

    def connect(self, node: str) -> redis.Redis:
        """A client of one node."""
        host, port = self.endpoints[node]
        return connect(host, port, self.username, self.password, self.timeout)


def missing(access: Access) -> str | None:
    """What the cluster lacks to be whole, in words; None when it is (apart from replicas that are still copying)."""
    decision = plan(access.look(), access.resolve())
    return None if decision.whole else str(decision)


def mend(access: Access, run: Run, seconds: float, *, linked: bool) -> None:
    """Apply the plan until the cluster is whole and, if `linked`, until its replicas have their masters' data.

    Raises StepError when the operator must decide, when it is not whole within `seconds` or the time of the command, or
    when the command is given up.
    """
    limit = Deadline(min(seconds, run.deadline.left))
    applied: dict[Action, float] = {}
    answer = ""
    while True:
        views = access.look()
        tried = [action for action, since in applied.items() if time.monotonic() - since > PATIENCE]
        decision = plan(views, access.resolve(), tried)
        if decision.blocked is not None:
            problem = decision.blocked
            raise StepError(str(decision), remedy=problem.remedy)
        said = str(decision) if not decision.whole else unlinked(views) if linked else None
        if said is None:
            return
        if limit.passed:
            raise StepError(
                f"the Redis Cluster is not whole after {limit.seconds:.0f} s: {said}",
                remedy="see `shopfds status redis-cluster` and `shopfds logs`, then run `shopfds up` again",
                details=answer,
            )
        due = [action for action in decision.actions if action not in applied or action in tried]
        _tell(due, run.sink)
        for action in due:
            answer = _apply(access, action, views, limit) or answer
            applied[action] = time.monotonic()
        run.pause(LOOK_INTERVAL)


def _tell(actions: Sequence[Action], sink: Sink) -> None:
    """What is mended; a loss of keys is a warning. Making a new cluster is no mending."""
    for text, action in {str(action): action for action in actions if not isinstance(action, Create | Open)}.items():
        sink(Note("warning" if isinstance(action, AddSlots) else "info", f"redis-cluster: {text}"))


def _apply(access: Access, action: Action, views: tuple[NodeView, ...], limit: Deadline) -> str:
    """Returns what the server answered where it refused: the state may have changed since we looked (gossip, an
    election, another operator), so that is no failure yet, and the next look tells."""
    if isinstance(action, Create):
        return access.create(action.nodes, limit.left)
    ids = {view.name: view.id for view in views}
    try:
        with access.connect(action.node) as client:
            _send(client, access, action, ids)
    except redis.RedisError as error:
        return f"{action.node} answered: {error}"
    return ""


def _send(client: redis.Redis, access: Access, action: Action, ids: dict[str, str]) -> None:
    def run(*words: object) -> object:
        return client.execute_command(*words)  # type: ignore[no-untyped-call]

    match action:
        case Reset():
            run("CLUSTER", "RESET", "HARD")
        case Meet(_, other):
            run("CLUSTER", "MEET", *access.resolve()[other])
        case Forget(_, gone):
            run("CLUSTER", "FORGET", gone)
        case Failover(_, takeover):
            run("CLUSTER", "FAILOVER", "TAKEOVER" if takeover else "FORCE")
        case Open():
            run("ACL", "SETUSER", REPLICATION_USER, "on")
        case Replicate(_, master):
            run("CLUSTER", "REPLICATE", ids[master])
        case AddSlots(_, ranges):
            wanted = mask_of(ranges)
            table = parse_nodes(str(run("CLUSTER NODES")))
            stale = 0
            for peer in table:
                stale |= mask_of(peer.slots) & wanted
            if stale:
                # Somebody owned them by an older word and no longer does: a higher epoch makes ours the valid one.
                for first, last in ranges_of(stale):
                    run("CLUSTER", "DELSLOTS", *range(first, last + 1))
                run("CLUSTER", "BUMPEPOCH")
            for first, last in ranges:
                run("CLUSTER", "ADDSLOTS", *range(first, last + 1))
