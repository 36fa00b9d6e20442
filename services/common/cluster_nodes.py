"""What each node of a Redis Cluster says of itself and of the others: asked side by side, parsed into frozen data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

SLOTS = 16384
"""Hash slots of every Redis Cluster."""
ALL_SLOTS = (1 << SLOTS) - 1
"""The mask of all slots."""

Status = Literal["up", "loading", "refused", "failing", "silent", "down"]
"""up; loading its data; refused: it does not accept our password; failing: it answers with an error; silent: no answer
in time; down: no process."""

REPLICATION_USER = "replication"
"""The user as which replicas log in to their masters."""

Endpoints = Mapping[str, tuple[str, int]]
"""Node name -> host and port at which this machine reaches it."""


class SlotRange(NamedTuple):
    """Hash slots `first` to `last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}" if self.last > self.first else str(self.first)


def mask_of(ranges: Iterable[SlotRange]) -> int:
    """A set of slots as the bits of one integer: cheap to join, cut and compare."""
    mask = 0
    for first, last in ranges:
        mask |= ((1 << (last - first + 1)) - 1) << first
    return mask


def ranges_of(mask: int) -> tuple[SlotRange, ...]:
    """The ranges of a mask, in order."""
    found = []
    while mask:
        first = (mask & -mask).bit_length() - 1
        rest = mask >> first
        length = (~rest & (rest + 1)).bit_length() - 1
        found.append(SlotRange(first, first + length - 1))
        mask &= ~(((1 << length) - 1) << first)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Peer:
    """One line of CLUSTER NODES: a node as another one (or itself) sees it."""

    id: str
    host: str
    port: int
    flags: frozenset[str]
    master_id: str
    """Empty for a master."""
    epoch: int
    connected: bool
    slots: tuple[SlotRange, ...] = ()
    moving: int = 0
    """Slots that are marked as migrating or importing; a node tells that of itself only."""

    @property
    def failing(self) -> bool:
        """Whether it is suspected, or known, to have failed."""
        return bool(self.flags & {"fail", "fail?"})

    @property
    def greeting(self) -> bool:
        """Whether the two are still in handshake: its id is not its own yet."""
        return "handshake" in self.flags


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node: how it answered, and when it is `up`, what it says. What is not known is None, never 0."""

    name: str
    host: str
    port: int
    status: Status
    said: str = ""
    """The last thing the server, or the attempt to reach it, said; set when it is not up."""
    me: Peer | None = None
    others: tuple[Peer, ...] = ()
    cluster_ok: bool | None = None
    current_epoch: int | None = None
    slots_by_state: Mapping[str, int] | None = None
    """From CLUSTER INFO: assigned, ok, pfail, fail."""
    keys: int | None = None
    memory: int | None = None
    """Bytes in use."""
    max_memory: int | None = None
    """Bytes; 0 is without limit."""
    uptime: int | None = None
    """Seconds."""
    offset: int | None = None
    """Replication offset in bytes: written by a master, received by a replica."""
    linked: bool | None = None
    """Replicas only: whether the link to the master is up and the data are in sync."""
    version: str = ""
    closed: bool | None = None
    """Whether it lets no replica log in (see shopfds_ops.components.redis_users); None where we may not ask."""

    @property
    def id(self) -> str:
        return self.me.id if self.me else ""

    @property
    def slots(self) -> int:
        """The mask of the slots it says are its own."""
        return mask_of(self.me.slots) if self.me else 0

    @property
    def master_id(self) -> str:
        return self.me.master_id if self.me else ""

    @property
    def blank(self) -> bool:
        """Knows no other node, owns no slot, holds no key: what `redis-cli --cluster create` accepts."""
        return self.status == "up" and not self.others and not self.slots and not self.master_id and self.keys == 0

    def peer(self, node_id: str) -> Peer | None:
        """How it sees the node with that id; None when it does not know it (or is only greeting it)."""
        return next((peer for peer in self.others if peer.id == node_id and not peer.greeting), None)


def connect(host: str, port: int, username: str, password: str, timeout: float = 1.0) -> redis.Redis:
    """A plain client of one node, that neither follows redirections nor repeats: an answer, or an error, in time."""
    client = redis.Redis(
        host=host,
        port=port,
        username=username,
        password=password,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        protocol=2,
    )
    for command in ("CLUSTER NODES", "CLUSTER INFO", "INFO"):
        client.set_response_callback(command, _text)  # as the server says it
    return client


def observe(endpoints: Endpoints, username: str, password: str, timeout: float = 1.0) -> tuple[NodeView, ...]:
    """Ask every node, side by side, and return what they say in the order of `endpoints`. Never raises for a node.

    `timeout` is in seconds, for each exchange.
    """

    def ask(entry: tuple[str, tuple[str, int]]) -> NodeView:
        name, (host, port) = entry
        return _view(name, host, port, connect(host, port, username, password, timeout))

    with ThreadPoolExecutor(max_workers=max(1, len(endpoints)), thread_name_prefix="redis") as pool:
        return tuple(pool.map(ask, endpoints.items()))


def parse_nodes(text: str) -> tuple[Peer, ...]:
    """The lines of CLUSTER NODES, of Redis 6.2 to 8."""
    return tuple(_peer(line.split()) for line in text.splitlines() if line.strip())


def parse_info(text: str) -> dict[str, str]:
    """The `name:value` lines of INFO and CLUSTER INFO."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


def _text(reply: Any, **_: Any) -> str:
    return str(reply)


def _peer(words: list[str]) -> Peer:
    address = words[1].split(",")[0].split("@")[0]  # host:port@bus[,hostname[,more]]
    host, _, port = address.rpartition(":")
    plain = [word for word in words[8:] if not word.startswith("[")]
    ranges = [word.partition("-") for word in plain]
    return Peer(
        id=words[0],
        host=host,
        port=int(port or 0),
        flags=frozenset(words[2].split(",")),
        master_id="" if words[3] == "-" else words[3],
        epoch=int(words[6]),
        connected=words[7] == "connected",
        slots=tuple(SlotRange(int(first), int(last or first)) for first, _, last in ranges),
        moving=len(words[8:]) - len(plain),
    )


def _view(name: str, host: str, port: int, client: redis.Redis) -> NodeView:
    try:
        with client:
            facts = parse_info(str(client.execute_command("INFO")))  # type: ignore[no-untyped-call]
            if facts.get("loading") == "1":
                share = facts.get("loading_loaded_perc", "?")
                return NodeView(name, host, port, "loading", f"it is loading its data ({share} %)")
            cluster = parse_info(str(client.execute_command("CLUSTER INFO")))  # type: ignore[no-untyped-call]
            peers = parse_nodes(str(client.execute_command("CLUSTER NODES")))  # type: ignore[no-untyped-call]
            closed = _closed(client)
    except redis.RedisError as error:
        return NodeView(name, host, port, _status(error), str(error))
    me = next((peer for peer in peers if "myself" in peer.flags), None)
    replica = facts.get("role") == "slave"
    return NodeView(
        name,
        host,
        port,
        "up",
        me=me,
        others=tuple(peer for peer in peers if peer is not me),
        cluster_ok=cluster.get("cluster_state") == "ok",
        current_epoch=int(cluster["cluster_current_epoch"]),
        slots_by_state={state: int(cluster[f"cluster_slots_{state}"]) for state in ("assigned", "ok", "pfail", "fail")},
        keys=_keys(facts.get("db0", "")),
        memory=int(facts["used_memory"]),
        max_memory=int(facts["maxmemory"]),
        uptime=int(facts["uptime_in_seconds"]),
        offset=int(facts.get("slave_repl_offset" if replica else "master_repl_offset", 0)),
        linked=facts.get("master_link_status") == "up" if replica else None,
        version=facts.get("redis_version", ""),
        closed=closed,
    )


def _closed(client: redis.Redis) -> bool | None:
    try:
        user = client.acl_getuser(REPLICATION_USER)
    except redis.exceptions.NoPermissionError:
        return None  # only the admin may ask
    return user is not None and "off" in cast("dict[str, Any]", user)["flags"]


def _status(error: redis.RedisError) -> Status:
    match error:
        case redis.AuthenticationError():  # NOAUTH, WRONGPASS; before ConnectionError, whose child it is
            return "refused"
        case redis.exceptions.BusyLoadingError():
            return "loading"
        case redis.TimeoutError():
            return "silent"
        case redis.ConnectionError():
            return "down"
    return "failing"


def _keys(db0: str) -> int:
    """`keys=12,expires=0,...`; the line is missing where there are none."""
    return int(db0.split(",", maxsplit=1)[0].removeprefix("keys=")) if db0 else 0
