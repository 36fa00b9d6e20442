"""A tiny model of a Redis Cluster: as much of its rules as repair depends on, without servers and without time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

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

NAMES = tuple(f"redis-node-{number}" for number in range(1, 7))
ADDRESSES = {name: ("127.0.0.1", 7000 + index) for index, name in enumerate(NAMES)}
THIRDS = tuple(mask_of([SlotRange(*ends)]) for ends in ((0, 5460), (5461, 10922), (10923, 16383)))


class RefusedError(Exception):
    """The server answers with an error, and nothing changes."""


@dataclass
class Entry:
    """What a node believes of another one."""

    port: int
    master: str = ""
    slots: int = 0
    epoch: int = 0


@dataclass
class Server:
    """A node: `keys` is the mask of the slots in which it holds something."""

    name: str
    id: str
    master: str = ""
    slots: int = 0
    epoch: int = 0
    keys: int = 0
    closed: bool = True
    table: dict[str, Entry] = field(default_factory=dict)

    def believe(self, id: str, entry: Entry) -> None:
        """Note what a node says of itself: slots that it owns are no one else's."""
        for other in self.table.values():
            other.slots &= ~entry.slots
        self.table[id] = entry


class Model:
    """Six nodes, all running."""

    def __init__(self) -> None:
        self._ids = (f"{number:040x}" for number in itertools.count(1))
        self.servers = {name: Server(name, next(self._ids)) for name in NAMES}
        self.names = {server.id: name for name, server in self.servers.items()}
        """Every id there ever was, and whose it was."""

    @property
    def by_id(self) -> dict[str, Server]:
        return {server.id: server for server in self.servers.values()}

    @property
    def stored(self) -> int:
        """The slots of which some node still holds keys."""
        found = 0
        for server in self.servers.values():
            found |= server.keys
        return found

    @property
    def owned(self) -> int:
        found = 0
        for server in self.servers.values():
            found |= 0 if server.master else server.slots
        return found

    def store(self, mask: int) -> None:
        """Write to these slots, wherever they have an owner; replicas receive it."""
        for server in self.servers.values():
            if not server.master:
                server.keys |= mask & server.slots
        self.gossip()

    # What the nodes say
    def views(self) -> tuple[NodeView, ...]:
        return tuple(self._view(server) for server in self.servers.values())

    def _view(self, server: Server) -> NodeView:
        port = ADDRESSES[server.name][1]
        alive = self.by_id
        others = tuple(
            Peer(
                id,
                "127.0.0.1" if id in alive else "",
                entry.port if id in alive else 0,
                frozenset({"slave" if entry.master else "master"} | (set() if id in alive else {"noaddr"})),
                entry.master,
                entry.epoch,
                id in alive,
                ranges_of(entry.slots),
            )
            for id, entry in server.table.items()
        )
        me = Peer(
            server.id,
            "127.0.0.1",
            port,
            frozenset({"myself"}),
            server.master,
            server.epoch,
            True,
            ranges_of(server.slots),
        )
        linked = server.master in alive if server.master else None
        return NodeView(
            server.name,
            "127.0.0.1",
            port,
            "up",
            me=me,
            others=others,
            cluster_ok=True,
            current_epoch=self._epoch(),
            keys=server.keys.bit_count(),
            offset=server.keys.bit_count(),
            linked=linked,
            closed=server.closed,
        )

    def _epoch(self) -> int:
        return max(server.epoch for server in self.servers.values())

    # What the nodes do by themselves
    def gossip(self) -> None:
        """Let acquainted nodes talk until nothing changes any more."""
        for _ in range(8):
            for one in self.servers.values():
                for other in self.servers.values():
                    if one is not other and other.id in one.table and one.id in other.table:
                        self._talk(one, other)
        for server in self.servers.values():
            leader = self.by_id.get(server.master) or self._successor(server.master)
            if leader is not None and not leader.closed:
                server.keys = leader.keys

    def _successor(self, id: str) -> Server | None:
        """Whoever now has the address of a node that is gone: a replica cannot tell the two apart."""
        name = self.names.get(id)
        return self.servers[name] if name else None

    def _talk(self, one: Server, other: Server) -> None:
        for id in list(other.table):  # `one` hears of live nodes and greets them
            friend = self.by_id.get(id)
            if friend is not None and friend is not one and id not in one.table and other.id in friend.table:
                self._introduce(one, friend)
        if not one.master and not other.master and one.slots & other.slots:
            winner, loser = (one, other) if (one.epoch, one.id) > (other.epoch, other.id) else (other, one)
            if winner.epoch == loser.epoch:
                winner.epoch = self._epoch() + 1
            both = one.slots & other.slots
            loser.slots &= ~both
            loser.keys &= ~both
            if not loser.slots:
                loser.master = winner.id
        if other.master and self.by_id.get(other.master) is not None and self.by_id[other.master].master == other.id:
            other.master = ""
        slots = 0 if other.master else other.slots
        one.believe(other.id, Entry(ADDRESSES[other.name][1], other.master, slots, other.epoch))

    @staticmethod
    def _introduce(one: Server, other: Server) -> None:
        one.table.setdefault(other.id, Entry(ADDRESSES[other.name][1]))
        other.table.setdefault(one.id, Entry(ADDRESSES[one.name][1]))

    # What befalls them
    def wipe(self, name: str) -> None:
        """The data folder is lost: same address, new id."""
        self.servers[name] = Server(name, next(self._ids))
        self.names[self.servers[name].id] = name

    def halfway(self, moment: int) -> None:
        """`redis-cli --cluster create`, cut off after so many of its commands."""
        for _ in itertools.islice(self._creation(), moment):
            pass

    def _creation(self) -> Iterator[None]:
        servers = list(self.servers.values())
        for server, third in zip(servers, THIRDS, strict=False):
            server.slots = third
            yield
        for number, server in enumerate(servers, 1):
            server.epoch = number
            yield
        for server in servers[1:]:
            self._introduce(server, servers[0])
            yield
        self.gossip()
        for replica, master in zip(servers[3:], servers[:3], strict=True):
            self._replicate(replica, master)
            yield

    # What repair does to them
    def apply(self, action: Action) -> None:
        """Do it, or raise RefusedError as the server would."""
        match action:
            case Create():
                self._create()
            case Reset(name):
                self._reset(self.servers[name])
            case Meet(name, other):
                self._introduce(self.servers[name], self.servers[other])
            case Forget(name, id):
                self._forget(self.servers[name], id)
            case Failover(name, takeover):
                self._fail_over(self.servers[name], takeover)
            case Open(name):
                self.servers[name].closed = False
            case Replicate(name, master):
                self._replicate(self.servers[name], self.servers[master])
            case AddSlots(name, ranges):
                self._add_slots(self.servers[name], mask_of(ranges))

    def _create(self) -> None:
        if not all(view.blank for view in self.views()):
            raise RefusedError
        self.halfway(100)

    def _reset(self, server: Server) -> None:
        if not server.master and server.keys:
            raise RefusedError
        self.wipe(server.name)

    @staticmethod
    def _forget(server: Server, id: str) -> None:
        if id == server.master or id not in server.table:
            raise RefusedError
        del server.table[id]

    @staticmethod
    def _replicate(server: Server, leader: Server) -> None:
        known = server.table.get(leader.id)
        if known is None or known.master or (not server.master and (server.slots or server.keys)):
            raise RefusedError
        server.master, server.slots = leader.id, 0
        if not leader.closed:
            server.keys = leader.keys

    def _add_slots(self, server: Server, wanted: int) -> None:
        if server.master:
            raise RefusedError
        if any(entry.slots & wanted for entry in server.table.values()):
            server.epoch = self._epoch() + 1
        for entry in server.table.values():
            entry.slots &= ~wanted
        server.slots |= wanted

    def _fail_over(self, server: Server, takeover: bool) -> None:
        if not server.master:
            raise RefusedError
        lost = server.table[server.master]
        if not takeover:
            owners = [id for id, entry in server.table.items() if entry.slots]
            voters = [id for id in owners if id in self.by_id and server.id in self.by_id[id].table]
            if not lost.slots or len(voters) * 2 <= len(owners):
                return  # the election is never won
        for other in self.servers.values():  # the other replicas of the lost master follow the new one
            if other is not server and other.master == server.master and server.id in other.table:
                other.master = server.id
        server.slots, server.master, server.epoch = lost.slots, "", self._epoch() + 1
        lost.slots = 0


def whole(model: Model) -> bool:
    """Three masters own all slots, each has exactly one replica."""
    masters = [server for server in model.servers.values() if not server.master]
    followed = [server.master for server in model.servers.values() if server.master]
    return model.owned == ALL_SLOTS and len(masters) == 3 and sorted(followed) == sorted(m.id for m in masters)
