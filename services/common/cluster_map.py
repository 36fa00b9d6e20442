"""Which node of Redis Cluster serves which slot, for callers that send to nodes themselves (see `redis_wire`).

Only the client's map of nodes is used, not the client itself: its own start also asks one fixed master for its
commands, and fails with that master; and on an error it closes every node's connections.
"""

from __future__ import annotations

import asyncio
import time

from redis.asyncio.cluster import ClusterNode, RedisCluster

from services.common.redis_wire import FAULTS

REFRESH_PAUSE = 0.25
"""Seconds at least between two looks at the cluster's topology."""
CONNECT_SECONDS = 3.0
"""Seconds to find the first node that tells the topology."""


class ClusterMap:
    """The map of a client of `services.common.cache.cluster_client`, which it owns."""

    def __init__(self, client: RedisCluster) -> None:
        self._client = client
        self._ready = False
        self._refreshed = float("-inf")
        self._refreshing: asyncio.Task[bool] | None = None
        limit: int = client.connection_kwargs["max_connections"]
        self.seats = asyncio.Semaphore(limit)
        """To be held while sending: redis-py raises when its connections are used up."""

    async def aclose(self) -> None:
        """Close all connections."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        await self._client.nodes_manager.aclose()
        await self._client.nodes_manager.aclose("startup_nodes")

    async def connect(self) -> None:
        """Learn the map, if that was not done yet. Raises ConnectionError."""
        if self._ready:
            return
        if time.monotonic() - self._refreshed < REFRESH_PAUSE:
            raise ConnectionError("Redis Cluster cannot be reached")
        self._refreshed = time.monotonic()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._client.nodes_manager.initialize()
        except FAULTS as error:
            raise ConnectionError(f"Redis Cluster cannot be reached: {error}") from None
        self._ready = True

    def nodes(self, slot: int) -> list[ClusterNode]:
        """Who serves `slot`: the master first, then its replicas; nobody, where the map has a hole."""
        found: list[ClusterNode] = self._client.nodes_manager.slots_cache.get(slot, [])
        return found

    def masters(self) -> list[ClusterNode]:
        """All masters."""
        found: list[ClusterNode] = self._client.get_primaries()
        return found

    def refresh_soon(self) -> None:
        """Look at the topology in the background: a question does not wait for it."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self.refresh())

    async def refresh(self, *, now: bool = False) -> bool:
        """Look at the topology anew, unless that was just done and is not wanted `now`.

        Returns whether any node could tell it; where none could, the old map stays.
        """
        if not now and time.monotonic() - self._refreshed < REFRESH_PAUSE:
            return True
        self._refreshed = time.monotonic()
        try:
            await self._client.nodes_manager.initialize()
        except FAULTS:
            return False
        self._ready = True
        return True
