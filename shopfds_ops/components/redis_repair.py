"""Decides what a Redis Cluster needs next to be whole: a pure function of what its nodes say (observe, plan, apply).

The plan is level-triggered: it looks at the state only, never at what was done before, so any interrupted repair or
creation is finished by looking again. Keys that a node still holds are never given up for the sake of order: where
two nodes hold keys for the same slots, the operator decides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from services.common.cluster_nodes import ALL_SLOTS, NodeView, Peer, SlotRange, mask_of, ranges_of
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
from shopfds_ops.result import Problem

MASTERS = 3
"""The others are replicas, one to each."""

Addresses = Mapping[str, tuple[str, int]]
"""Node name -> IP address and port at which the other nodes reach it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do next: `actions` now, or wait for what `waiting` names, or leave it to the operator. Nothing: whole."""

    actions: tuple[Action, ...] = ()
    waiting: str = ""
    blocked: Problem | None = None

    def __str__(self) -> str:
        if self.blocked is not None:
            return f"{self.blocked.where}: {self.blocked.what}"
        return self.waiting or "; ".join(dict.fromkeys(map(str, self.actions)))

    @property
    def whole(self) -> bool:
        return not self.actions and not self.waiting and self.blocked is None


WHOLE = Decision()


def plan(views: Sequence[NodeView], addresses: Addresses, tried: Collection[Action] = ()) -> Decision:
    """What the cluster of all nodes in `views` needs next.

    `tried` are actions that were applied a while ago and did not help: an election is then followed by a takeover.
    """
    for view in views:
        if view.status == "refused":
            return Decision(blocked=refusal(view))
        if view.status != "up":
            return Decision(waiting=f"{view.name} does not answer: {view.said}")
    if all(view.blank for view in views):
        return Decision((Create(tuple(view.name for view in views)),))
    cluster = _Cluster(views, addresses)
    if cluster.uncovered and not any(view.keys for view in views):
        # Creation was interrupted, or all was lost: nothing is stored, so starting over is the shortest way.
        return Decision(tuple(Reset(view.name) for view in views if not view.blank))
    stages: tuple[Callable[[], Decision], ...] = (
        lambda: _settle_claims(cluster),
        lambda: _promote_orphans(cluster, tried),
        lambda: _forget_the_gone(cluster),
        lambda: _open(cluster),
        lambda: _meet(cluster),
        lambda: _cover(cluster),
        lambda: _give_replicas(cluster),
        lambda: Decision(waiting=_unsettled(cluster)),
    )
    for stage in stages:
        decision = stage()
        if not decision.whole:
            return decision
    return WHOLE


def unlinked(views: Sequence[NodeView]) -> str | None:
    """The first replica that is not in sync with its master yet, in words; None when all are."""
    for view in views:
        if view.status != "up":
            return f"{view.name} does not answer: {view.said}"
        if view.linked is False:
            return f"{view.name} has no link to its master, or is still copying from it"
    return None


def refusal(view: NodeView) -> Problem:
    """The problem of a node that does not accept our password."""
    return Problem(
        view.name,
        f"refuses the password of its admin user: {view.said}",
        "the server was started with other passwords than .env has: restore .env, or `shopfds restart redis-cluster`",
    )


class _Cluster:
    """The views of all nodes as one picture. What a node says of itself counts; the others may not know it yet."""

    def __init__(self, views: Sequence[NodeView], addresses: Addresses) -> None:
        self.views = views
        self.addresses = addresses
        self.by_id = {view.id: view for view in views}
        self.masters = [view for view in views if not view.master_id and view.slots]
        self.spare = [view for view in views if not view.master_id and not view.slots]
        covered = 0
        for master in self.masters:
            covered |= master.slots
        self.uncovered = ALL_SLOTS & ~covered

    def replicas(self, master_id: str) -> list[NodeView]:
        """The nodes that say they follow that id, those with the most recent data first."""
        found = [view for view in self.views if view.master_id == master_id]
        return sorted(found, key=lambda view: (-(view.offset or 0), -(view.keys or 0), view.name))

    def gone(self, view: NodeView) -> Iterator[Peer]:
        """The nodes in the table of `view` that are none of ours."""
        return (peer for peer in view.others if not peer.greeting and peer.id not in self.by_id)

    def stranger(self, peer: Peer) -> bool:
        """Whether the node is alive somewhere else: not ours, but not gone either."""
        ours = (peer.host, peer.port) in self.addresses.values()
        return peer.connected and not peer.failing and not ours and "noaddr" not in peer.flags


def _acquainted(one: NodeView, other: NodeView) -> bool:
    return one.peer(other.id) is not None and other.peer(one.id) is not None


def _settle_claims(cluster: _Cluster) -> Decision:
    """Two masters claim the same slots: gossip settles it where they know each other, else who holds keys stays."""
    masters = cluster.masters
    for index, one in enumerate(masters):
        for other in masters[index + 1 :]:
            if not one.slots & other.slots:
                continue
            if _acquainted(one, other):
                return Decision(waiting=f"{one.name} and {other.name} settle which of them owns their slots")
            loser = min(one, other, key=lambda view: (view.keys or 0, view.slots.bit_count()))
            if not loser.keys:
                return Decision((Reset(loser.name),))
            return Decision(
                blocked=Problem(
                    f"{one.name}, {other.name}",
                    "both hold keys for the same slots, and do not know each other",
                    f"keep the one you trust, and empty the other: `shopfds exec {loser.name} redis-cli flushall`, "
                    "then run `shopfds up`",
                )
            )
    return WHOLE


def _promote_orphans(cluster: _Cluster, tried: Collection[Action]) -> Decision:
    """Replicas of a master that no longer exists hold its keys: promote the best of them."""
    orphaned = {view.master_id for view in cluster.views if view.master_id and view.master_id not in cluster.by_id}
    promoted: list[Action] = []
    for gone in sorted(orphaned):
        best = cluster.replicas(gone)[0]
        ghost = best.peer(gone)
        ghost_slots = mask_of(ghost.slots) if ghost else 0
        if ghost is not None and cluster.stranger(ghost):
            return _stranger(best, ghost)
        if not ghost_slots & cluster.uncovered and not (cluster.uncovered and best.keys):
            continue  # its slots have another owner: it is given a new master below
        # A node that lost its data answers under a new id, and so its old id may never count as failed: ask for the
        # election instead of waiting for one. The masters that are left must be more than half of all.
        owners = [peer.id for peer in best.others if peer.slots]
        electable = sum(owner in cluster.by_id for owner in owners) > len(owners) / 2
        election = Failover(best.name, takeover=False)
        takeover = not electable or not ghost_slots or election in tried
        promoted.append(Failover(best.name, takeover=True) if takeover else election)
    return Decision(tuple(promoted))


def _forget_the_gone(cluster: _Cluster) -> Decision:
    """On all nodes at once: a node that was forgotten by one alone comes back with the gossip of the others."""
    struck: list[Action] = []
    for view in cluster.views:
        for peer in cluster.gone(view):
            if cluster.stranger(peer):
                return _stranger(view, peer)
            if peer.id != view.master_id:  # a replica cannot forget its master: it gets a new one first
                struck.append(Forget(view.name, peer.id))
    return Decision(tuple(struck))


def _open(cluster: _Cluster) -> Decision:
    """A replica follows an address: were a blank node open while a replica still takes it for its lost master, the
    replica would copy its emptiness. So blank nodes come up closed until no such replica is left."""
    if any(view.master_id and view.master_id not in cluster.by_id for view in cluster.views):
        return WHOLE
    return Decision(tuple(Open(view.name) for view in cluster.views if view.closed))


def _stranger(view: NodeView, peer: Peer) -> Decision:
    return Decision(
        waiting=f"{view.name} knows a node that is not part of this stack, and lives: {peer.host}:{peer.port} "
        f"(take it out with `redis-cli --cluster del-node`, id {peer.id})"
    )


def _meet(cluster: _Cluster) -> Decision:
    """Bring every node to the one that knows most, also those that moved to another address."""

    def acquaintances(view: NodeView) -> tuple[int, int]:
        return sum(_acquainted(view, other) for other in cluster.views), view.slots.bit_count()

    anchor = max(cluster.views, key=acquaintances)
    introductions: list[Action] = []
    for other in cluster.views:
        if other is anchor:
            continue
        peer = anchor.peer(other.id)
        moved = (
            peer is not None
            and not peer.connected
            and other.name in cluster.addresses
            and (peer.host, peer.port) != cluster.addresses[other.name]
        )
        if moved or not _acquainted(anchor, other):
            introductions.append(Meet(anchor.name, other.name))
    return Decision(tuple(introductions))


def _cover(cluster: _Cluster) -> Decision:
    """Slots that nobody owns: their keys are lost here (PostgreSQL has them); an owner makes them usable again."""
    if not cluster.uncovered:
        return WHOLE
    needed = max(0, MASTERS - len(cluster.masters))
    keepers = [view for view in cluster.spare if view.keys]
    empty = [view for view in cluster.spare if not view.keys]
    takers = (keepers + empty)[: max(needed, len(keepers))]
    if not takers and cluster.masters:
        takers = [min(cluster.masters, key=lambda view: view.slots.bit_count())]
    if not takers:  # every node follows one that is gone
        return Decision((Failover(max(cluster.views, key=lambda view: view.keys or 0).name, takeover=True),))
    shares = _split(cluster.uncovered, len(takers))
    return Decision(tuple(AddSlots(view.name, share) for view, share in zip(takers, shares, strict=True)))


def _split(mask: int, parts: int) -> list[tuple[SlotRange, ...]]:
    """Cut a set of slots in `parts` runs of nearly the same size."""
    total = mask.bit_count()
    shares: list[tuple[SlotRange, ...]] = []
    queue = list(ranges_of(mask))
    for part in range(parts):
        room = total * (part + 1) // parts - total * part // parts
        share = []
        while room and queue:
            first, last = queue.pop(0)
            taken = min(room, last - first + 1)
            share.append(SlotRange(first, first + taken - 1))
            room -= taken
            if first + taken <= last:
                queue.insert(0, SlotRange(first + taken, last))
        shares.append(tuple(share))
    return shares


def _give_replicas(cluster: _Cluster) -> Decision:
    """Attach the nodes without slots to the masters that lack a replica, then share out those that have too many."""
    counts = {master.id: len(cluster.replicas(master.id)) for master in cluster.masters}
    free = [
        view for view in cluster.views if view in cluster.spare or (view.master_id and view.master_id not in counts)
    ]
    for view in free:
        if view in cluster.spare and view.keys:
            return Decision(
                blocked=Problem(
                    view.name,
                    f"holds {view.keys} keys, but all slots belong to others",
                    "look at them; after `flushall` on that node, `shopfds up` makes it a replica",
                )
            )
    attached: list[Action] = []
    early: list[str] = []

    def attach(view: NodeView) -> None:
        neediest = min(cluster.masters, key=lambda master: (counts[master.id], master.name))
        counts[neediest.id] += 1
        if view.peer(neediest.id):
            attached.append(Replicate(view.name, neediest.name))
        else:
            early.append(f"{view.name} has not heard of {neediest.name}, its master to be")

    for view in free:
        attach(view)
    for master in cluster.masters:
        for extra in cluster.replicas(master.id)[:0:-1]:  # all but the best, the least recent first
            if counts[master.id] > 1 and 0 in counts.values():
                counts[master.id] -= 1
                attach(extra)
    if attached or early:
        return Decision(tuple(attached), "" if attached else early[0])
    if 0 in counts.values() or len(counts) < MASTERS:
        return Decision(
            blocked=Problem(
                "redis-cluster",
                f"{len(counts)} masters share the slots among {len(cluster.views)} nodes: {MASTERS} and a replica for "
                "each are needed",
                "move slots with `shopfds exec redis-node-1 redis-cli --cluster rebalance` or `--cluster reshard`",
            )
        )
    return WHOLE


def _unsettled(cluster: _Cluster) -> str:
    """What the nodes do not agree on yet; empty when every one has the same picture."""
    for view in cluster.views:
        for other in cluster.views:
            if other is view:
                continue
            peer = view.peer(other.id)
            if peer is None:
                return f"{view.name} does not know {other.name} yet"
            if peer.failing or not peer.connected:
                return f"{view.name} counts {other.name} as failed"
            if peer.master_id != other.master_id or mask_of(peer.slots) != other.slots:
                return f"{view.name} has not learnt the role and slots of {other.name} yet"
        if any(peer.greeting for peer in view.others):
            return f"{view.name} is still greeting a node"
        if not view.cluster_ok:
            return f"{view.name} says the state of the cluster is fail"
    return ""
