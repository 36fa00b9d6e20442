"""What can be done to a Redis Cluster to make it whole: each action says in its text why it is needed."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.cluster_nodes import SlotRange, mask_of


@dataclass(frozen=True, slots=True)
class Create:
    """Run `redis-cli --cluster create` over blank nodes."""

    nodes: tuple[str, ...]

    def __str__(self) -> str:
        return f"no cluster yet: create one of {len(self.nodes)} nodes"


@dataclass(frozen=True, slots=True)
class Reset:
    """Make a node that holds no key blank again (CLUSTER RESET HARD)."""

    node: str

    def __str__(self) -> str:
        return f"{self.node} is part of a cluster that was never finished, and holds no key: reset it"


@dataclass(frozen=True, slots=True)
class Meet:
    """Introduce `other` to `node`; gossip tells the rest."""

    node: str
    other: str

    def __str__(self) -> str:
        return f"{self.node} and {self.other} do not know each other: introduce them"


@dataclass(frozen=True, slots=True)
class Forget:
    """Strike a node that no longer exists from the table of `node`."""

    node: str
    id: str

    def __str__(self) -> str:
        return f"node {self.id[:8]} no longer exists: the others forget it"


@dataclass(frozen=True, slots=True)
class Failover:
    """Promote a replica whose master no longer exists: by election, or by `takeover` where nobody can elect."""

    node: str
    takeover: bool

    def __str__(self) -> str:
        how = "takeover, as too few masters are left to elect" if self.takeover else "election"
        return f"{self.node} lost its master for good: promote it ({how})"


@dataclass(frozen=True, slots=True)
class Open:
    """Let replicas log in to `node`, which came up blank and closed."""

    node: str

    def __str__(self) -> str:
        return f"{self.node} came up blank, and nobody takes it for its old master any more: open it to replicas"


@dataclass(frozen=True, slots=True)
class Replicate:
    """Make `node` a replica of `master`."""

    node: str
    master: str

    def __str__(self) -> str:
        return f"{self.master} lacks a replica: {self.node} follows it"


@dataclass(frozen=True, slots=True)
class AddSlots:
    """Give slots that nobody owns to `node`."""

    node: str
    ranges: tuple[SlotRange, ...]

    def __str__(self) -> str:
        lost = mask_of(self.ranges).bit_count()
        return f"{lost} slots have no owner, and their keys are lost here: {self.node} takes them"


Action = Create | Reset | Meet | Forget | Failover | Open | Replicate | AddSlots
