"""Redis Cluster from the host: the one place for how a client finds nodes, how long it waits, how often it retries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

Endpoint = tuple[str, int]

SOCKET_TIMEOUT = 1.0
"""Seconds for one reply or one connect. redis-py's own 5 s would be longer than a whole failover."""
MAX_CONNECTIONS = 64
"""Connections per node and client. redis-py raises at once when they are used up: callers bound their concurrency."""
RETRIES = 3
"""Repeats of a command after a lost connection or a moved slot. redis-py pauses a fixed 0.25 s before each, so its own
default of 10 would hide an outage for seconds."""


def cluster_client(
    endpoints: Sequence[Endpoint],
    username: str,
    password: str,
    *,
    socket_timeout: float = SOCKET_TIMEOUT,
    max_connections: int = MAX_CONNECTIONS,
    retries: int = RETRIES,
) -> RedisCluster:
    """A client for a cluster whose nodes this machine reaches at `endpoints`; connects on first use.

    Nodes announce names or addresses that may mean nothing here (a container's), but their port numbers are the
    same inside and outside: what they announce is mapped to the endpoint with that port.
    A cluster that lost a shard still serves the others (`require_full_coverage` is off on this side).
    """
    return RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in endpoints],
        username=username,
        password=password,
        address_remap=remap_by_port(endpoints),
        require_full_coverage=False,
        dynamic_startup_nodes=False,
        reinitialize_steps=1,
        socket_timeout=socket_timeout,
        socket_connect_timeout=socket_timeout,
        max_connections=max_connections,
        retry=Retry(NoBackoff(), retries),
        protocol=2,
    )


def remap_by_port(endpoints: Sequence[Endpoint]) -> Callable[[Endpoint], Endpoint]:
    """The function that turns what a node announces into where it is reached; unknown ports stay as announced."""
    by_port = {port: (host, port) for host, port in endpoints}

    def remap(announced: Endpoint) -> Endpoint:
        return by_port.get(int(announced[1]), announced)

    return remap
