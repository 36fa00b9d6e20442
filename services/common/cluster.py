"""The state of the Redis Cluster as typed data, asked from every node: coverage, roles, links, memory, problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from services.common.cluster_nodes import (
    SLOTS,
    Endpoints,
    NodeView,
    Peer,
    SlotRange,
    Status,
    mask_of,
    observe,
    ranges_of,
)

State = Literal["ok", "fail", "unknown"]
Role = Literal["master", "replica", "unknown"]

MEMORY_LIMIT = 0.9
"""The share of maxmemory over which a node is not healthy: nothing is evicted, so a full node refuses writes."""


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """One node. Of a node that does not answer, what the others say of it; what nobody knows is None, never 0."""

    name: str
    endpoint: str
    """host:port at which this machine reaches it."""
    status: Status
    id: str | None
    role: Role
    master: str | None
    """Replicas only: the name of the master it follows (its id, where that is none of ours)."""
    slots: int | None
    slot_ranges: tuple[SlotRange, ...]
    keys: int | None
    memory: int | None
    """Bytes in use."""
    max_memory: int | None
    link: bool | None
    """Replicas only: whether it is connected to its master and in sync."""
    epoch: int | None
    """Configuration epoch; for a replica that of its master. A master that won a failover has one above the number
    of nodes, since creation gives them 1 to 6."""
    uptime: int | None
    """Seconds."""
    version: str

    @property
    def reachable(self) -> bool:
        return self.status == "up"


@dataclass(frozen=True, slots=True)
class ClusterProblem:
    """Something that is not healthy: the node (or the cluster), what, and what to do next."""

    where: str
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """The whole cluster as seen from all its nodes at once."""

    state: State
    """ok only when every node that answers says so; unknown when none does."""
    slots_covered: int | None
    """Of 16384: slots that a reachable master says it serves. None when no node answers."""
    slots_by_state: Mapping[str, int]
    """CLUSTER INFO's assigned, ok, pfail, fail; of the node with the highest epoch."""
    nodes: tuple[ClusterNode, ...]
    current_epoch: int | None
    failovers: int | None
    """The current epoch above the number of nodes (creation ends at that). Redis counts no failovers; each election
    or takeover raises the epoch by one, and so does a lost election: read it as "at most"."""
    problems: tuple[ClusterProblem, ...]

    @property
    def healthy(self) -> bool:
        return not self.problems


def cluster_report(endpoints: Endpoints, username: str, password: str, timeout: float = 1.0) -> ClusterReport:
    """Ask all nodes side by side and judge. Never raises for a server that is down: that is a problem in the report.

    `endpoints`: node name -> (host, port). `timeout`: seconds for each exchange with a node.
    """
    return judge(observe(endpoints, username, password, timeout))


def judge(views: Sequence[NodeView]) -> ClusterReport:
    """The report on what the nodes said."""
    up = [view for view in views if view.status == "up"]
    reference = max(up, key=lambda view: (view.current_epoch or 0, len(view.others)), default=None)
    seen = {view.name: _seen(view, reference) for view in views}
    names = {peer.id: name for name, peer in seen.items() if peer is not None}
    nodes = tuple(_node(view, seen[view.name], names) for view in views)
    states: set[bool | None] = {view.cluster_ok for view in up}
    covered = 0
    for view in up:
        covered |= 0 if view.master_id else view.slots
    epoch = reference.current_epoch if reference else None
    return ClusterReport(
        state="unknown" if not up else "ok" if states == {True} else "fail",
        slots_covered=covered.bit_count() if up else None,
        slots_by_state=dict(reference.slots_by_state or {}) if reference else {},
        nodes=nodes,
        current_epoch=epoch,
        failovers=None if epoch is None else max(0, epoch - len(views)),
        problems=(*_of_nodes(nodes, views), *_of_cluster(up, nodes, covered, len(up) == len(views))),
    )


def _seen(view: NodeView, reference: NodeView | None) -> Peer | None:
    """What the node says of itself, else another one of it: found by its port, the same inside and outside."""
    if view.me is not None or reference is None:
        return view.me
    return next((peer for peer in reference.others if peer.port == view.port), None)


def _node(view: NodeView, seen: Peer | None, names: Mapping[str, str]) -> ClusterNode:
    role: Role = "unknown" if seen is None else "replica" if seen.master_id else "master"
    return ClusterNode(
        name=view.name,
        endpoint=f"{view.host}:{view.port}",
        status=view.status,
        id=seen.id if seen else None,
        role=role,
        master=names.get(seen.master_id, seen.master_id) if seen and seen.master_id else None,
        slots=mask_of(seen.slots).bit_count() if seen else None,
        slot_ranges=seen.slots if seen else (),
        keys=view.keys,
        memory=view.memory,
        max_memory=view.max_memory,
        link=view.linked,
        epoch=seen.epoch if seen else None,
        uptime=view.uptime,
        version=view.version,
    )


def _of_nodes(nodes: Sequence[ClusterNode], views: Sequence[NodeView]) -> list[ClusterProblem]:
    problems = []
    for node, view in zip(nodes, views, strict=True):
        what, remedy = "", ""
        if node.status == "refused":
            what = f"refuses the user or password it is asked with: {view.said}"
            remedy = "the server was started with other passwords than .env has: restore .env, or run `shopfds up`"
        elif node.status == "failing":
            what = f"answers with an error: {view.said}"
            remedy = f"see `shopfds logs {node.name}`, then run `shopfds up`"
        elif node.status == "loading":
            what, remedy = view.said, "wait until it has read its append-only file"
        elif not node.reachable:
            what = f"does not answer at {node.endpoint}: {view.said}"
            remedy = f"run `shopfds up`; `shopfds logs {node.name}` says why it ended"
        elif node.link is False:
            what = "has no link to its master, or is still copying from it"
            remedy = f"wait a moment; if it stays, see `shopfds logs {node.name}`"
        elif node.max_memory and node.memory and node.memory > MEMORY_LIMIT * node.max_memory:
            what = f"uses {node.memory / node.max_memory:.0%} of its maxmemory; a full node refuses writes"
            remedy = "raise redis.maxmemory and redis.memory with `shopfds config set`, then `shopfds up`"
        elif view.me is not None and view.me.moving:
            what = f"has {view.me.moving} slots marked as moving"
            remedy = f"`shopfds exec {node.name} redis-cli --cluster fix` ends an interrupted move"
        if what:
            problems.append(ClusterProblem(node.name, what, remedy))
    return problems


def _of_cluster(
    up: Sequence[NodeView], nodes: Sequence[ClusterNode], covered: int, complete: bool
) -> list[ClusterProblem]:
    if not up:
        return []
    where, mend = "redis-cluster", "run `shopfds init redis-cluster`"
    if all(view.blank for view in up):
        return [ClusterProblem(where, "the nodes run, but no cluster was created", mend)]
    problems = []
    if covered.bit_count() < SLOTS:
        missing = ((1 << SLOTS) - 1) & ~covered
        ranges = ", ".join(str(item) for item in ranges_of(missing)[:4])
        lost = f"{missing.bit_count()} of {SLOTS} slots are served by nobody ({ranges})"
        back = f"{mend}, then `shopfds blacklist rebuild`" if complete else "run `shopfds up`"
        problems.append(ClusterProblem(where, lost, back))
    blank = {view.name for view in up if not view.others}
    problems += [
        ClusterProblem(name, "knows no cluster: it lost its data, or never joined", mend) for name in sorted(blank)
    ]
    for node in nodes:
        lonely = not any(other.master == node.name for other in nodes)
        if node.reachable and node.role == "master" and lonely and node.name not in blank:
            what = "is a master without a replica" if node.slots else "has neither slots nor a master"
            problems.append(ClusterProblem(node.name, what, mend))
    if complete:
        problems += _of_memories([view for view in up if view.name not in blank], where, mend)
    sad = [view.name for view in up if not view.cluster_ok]
    if sad and not problems:
        problems.append(
            ClusterProblem(where, f"its state is fail, says {', '.join(sad)}", f"wait a moment, then {mend}")
        )
    return problems


def _of_memories(views: Sequence[NodeView], where: str, mend: str) -> list[ClusterProblem]:
    """What the nodes, all of which answer, hold of each other that is not so."""
    problems = []
    alive = {view.id for view in views}
    gone = sorted({peer.id[:8] for view in views for peer in view.others if peer.id not in alive and not peer.greeting})
    if gone:
        problems.append(ClusterProblem(where, f"the nodes remember some that no longer exist: {', '.join(gone)}", mend))
    for node in views:
        seen = [(view.name, view.peer(node.id)) for view in views if view is not node]
        blind = [name for name, peer in seen if peer is None]
        doubting = [name for name, peer in seen if peer is not None and peer.failing]
        if blind:
            problems.append(ClusterProblem(node.name, f"is not known to {', '.join(blind)}", mend))
        if doubting:
            problems.append(ClusterProblem(node.name, f"counts as failed with {', '.join(doubting)}", mend))
    return problems
