"""Counts the orders of users, addresses, devices and cards in sliding windows, in Redis Cluster.

Each subject has two sorted sets in one slot, by time: its orders and the users who made them. One script adds the order
and counts, so that orders side by side each see all before them. An order is known by its id: counting it again, after
an answer that was lost, counts it once. The time is the worker's: the application's Redis user may not ask a node for
its own. A clock that is behind counts what others did in its future as well; one that is ahead by more than a window
would drop what is in it, so the machines' clocks must agree to the second.

    fds:velocity:{SUBJECT:VALUE}:orders    ids of orders
    fds:velocity:{SUBJECT:VALUE}:users     ids of users, at their latest order

What a master counted and no replica had when it died is forgotten; what cannot be counted is missing in the answer,
which keeps the order from being approved.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Self

from redis.asyncio.cluster import ClusterNode
from redis.crc import key_slot
from redis.exceptions import ResponseError

from services.common.cache import Endpoint, cluster_client
from services.common.cluster_map import ClusterMap
from services.common.redis_batches import Batches
from services.common.redis_wire import FAULTS, Command, Reply
from services.fds.rules.facts import Count, Counts, Subject

PATIENCE = 0.1
"""Seconds for a node to count a batch of orders, a new connection to it included; nobody else could count them."""
MOST = 2000
"""Orders, and users, of one subject that are kept. Who has more is far above every limit, and costs no more memory."""

_COUNT = """
local now, longest, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if redis.call('ZADD', KEYS[1], 'NX', now, ARGV[4]) == 1 then
    redis.call('ZADD', KEYS[2], 'GT', now, ARGV[5])
end
for _, key in ipairs(KEYS) do
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now - longest)
    redis.call('ZREMRANGEBYRANK', key, 0, -most - 1)
    redis.call('PEXPIRE', key, longest)
end
local counts = {}
for i = 6, #ARGV do
    for _, key in ipairs(KEYS) do
        counts[#counts + 1] = redis.call('ZCOUNT', key, '(' .. (now - ARGV[i]), '+inf')
    end
end
return counts
"""


class VelocityCounters:
    """An async context manager; safe for concurrent use within one event loop. Never raises for what Redis does."""

    def __init__(self, cluster: ClusterMap, *, patience: float = PATIENCE) -> None:
        self._map = cluster
        self._batches = Batches(patience)

    @classmethod
    def connect(cls, endpoints: Sequence[Endpoint], username: str, password: str) -> Self:
        """Counters in the cluster at `endpoints`."""
        return cls(ClusterMap(cluster_client(endpoints, username, password)))

    async def __aenter__(self) -> Self:
        with contextlib.suppress(ConnectionError):  # every count tries again, in the background
            await self._map.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._batches.aclose()
        await self._map.aclose()

    async def count(
        self, order: str, user: str, subjects: Mapping[Subject, str], windows: Mapping[Subject, Sequence[int]]
    ) -> Counts:
        """Count an order by `user` at each of `subjects` that has `windows` (seconds), and say what is there now.

        `order` is its id, the same for every attempt. A subject whose node does not answer in time is left out.
        """
        now = time.time_ns() // 1_000_000
        batches: dict[str, tuple[ClusterNode, list[Subject], list[Command]]] = {}
        for subject, value in subjects.items():
            if not windows.get(subject):
                continue
            prefix = f"fds:velocity:{{{subject}:{value}}}"
            nodes = self._map.nodes(key_slot(prefix.encode()))
            if not nodes:
                self._map.refresh_soon()
                continue
            spans = [seconds * 1000 for seconds in windows[subject]]
            _, asked, commands = batches.setdefault(nodes[0].name, (nodes[0], [], []))
            asked.append(subject)
            keys = (f"{prefix}:orders", f"{prefix}:users")
            commands.append(("EVAL", _COUNT, 2, *keys, now, max(spans), MOST, order, user, *spans))
        answers = await asyncio.gather(*(self._ask(node, commands) for node, _, commands in batches.values()))
        counts: dict[Subject, dict[int, Count]] = {}
        for (_, asked, _), replies in zip(batches.values(), answers, strict=True):
            for subject, reply in zip(asked, replies, strict=True):
                if isinstance(reply, list):
                    pairs = zip(windows[subject], reply[0::2], reply[1::2], strict=True)
                    counts[subject] = {seconds: Count(int(orders), int(users)) for seconds, orders, users in pairs}
        return counts

    async def _ask(self, node: ClusterNode, commands: list[Command]) -> list[Reply]:
        """What a node replies to each command; None where it does not."""
        try:
            replies = await self._batches.ask(node, commands)
        except FAULTS:
            self._map.refresh_soon()
            return [None] * len(commands)
        if any(isinstance(reply, ResponseError) for reply in replies):  # moved, read-only, out of memory
            self._map.refresh_soon()
        return replies


def subjects_of(*, user: str, ip: str, device: str, card_bin: str, card_last4: str) -> dict[Subject, str]:
    """What an order is counted at. An IPv6 address stands for its /64, all of which one customer has.

    Raises ValueError for an address that is none.
    """
    address = ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        place = str(mapped)
    elif address.version == 6:
        place = str(ip_network((address, 64), strict=False))
    else:
        place = str(address)
    return {
        Subject.user: user,
        Subject.ip: place,
        Subject.device: device,
        Subject.card: f"{card_bin}-{card_last4}",
        Subject.card_bin: card_bin,
    }
