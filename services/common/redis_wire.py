"""Batches of Redis commands on a connection of one node: written first, read later, so that several nodes work at once.

redis-py's cluster pipeline would do the routing too, but on an error it closes every node's connections, sleeps and
starts over, and it tells neither which node failed nor runs WAIT on the connection that wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection
from redis.exceptions import RedisClusterException, RedisError, ResponseError

Command = tuple[str | bytes | int, ...]
Reply = Any
"""bytes, int, list or None as the server said; a ResponseError where it refused that command."""

FAULTS = (RedisError, RedisClusterException, OSError, TimeoutError)
"""What a node that is dead, frozen or being replaced raises."""


@dataclass(slots=True)
class Flight:
    """A batch that was sent and is to be received, or dropped, exactly once."""

    node: ClusterNode
    connection: Connection
    replies: int


async def send(node: ClusterNode, commands: Sequence[Command], within: float) -> Flight:
    """Write `commands` to `node`; connects first where needed. `within` in seconds. Raises one of FAULTS."""
    connection = node.acquire_connection()
    connection.socket_timeout = None  # the whole batch has a limit; one for each reply would cost more than the replies
    try:
        async with asyncio.timeout(within):
            await connection.send_packed_command(connection.pack_commands(commands))
    except BaseException:
        await _discard(node, connection)
        raise
    return Flight(node, connection, len(commands))


async def receive(flight: Flight, within: float) -> list[Reply]:
    """The replies to a batch, in its order. `within` in seconds. Raises one of FAULTS."""
    connection = flight.connection
    replies: list[Reply] = []
    try:
        async with asyncio.timeout(within):
            while len(replies) < flight.replies:
                try:
                    replies.append(await connection.read_response())
                except ResponseError as refused:
                    replies.append(refused)
    except BaseException:
        await drop(flight)
        raise
    flight.node.release(connection)
    return replies


async def drop(flight: Flight) -> None:
    """Give up a batch: its replies must not be read as those of the next one."""
    await _discard(flight.node, flight.connection)


async def call(node: ClusterNode, commands: Sequence[Command], within: float) -> list[Reply]:
    """Send a batch and receive its replies."""
    return await receive(await send(node, commands, within), within)


async def _discard(node: ClusterNode, connection: Connection) -> None:
    await connection.disconnect(nowait=True)
    node.release(connection)
