"""The fast copy of the blacklist in Redis Cluster: bounded reads that try the replica too, writes that wait for one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Literal

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from services.common.cluster_map import REFRESH_PAUSE, ClusterMap
from services.common.redis_wire import FAULTS, Command, Flight, Reply, call, drop, receive, send
from services.fds.blacklist.errors import CopyUnavailableError
from services.fds.blacklist.keys import BUCKET_SLOTS, BUCKETS, MARKERS, PATTERN

Answers = dict[int, list[bytes | None]]
"""By bucket: the marker, then the values of the keys asked, None where there is none."""
Source = Literal["master", "replica"]

PATIENCE = 0.04
"""Seconds for a master, and again for its replica, before the next one is asked: with the record's answer a check stays
under the 100 ms that a decision may take."""
SUSPICION = 1.0
"""Seconds for which a node that did not answer is asked last."""
WRITE_SECONDS = 10.0
"""Seconds for which a write is repeated, to ride out a failover (node timeout of 5 s, and about 1 s to elect), before
it is left to the next `settle`."""
CALL_SECONDS = 5.0
"""Seconds for one batch of a bulk write or scan."""
BATCH = 2000
WAIT: Command = ("WAIT", 1, 100)
READONLY: Command = ("READONLY",)

PASSING = (AskError, BusyLoadingError, ClusterDownError, MasterDownError, MovedError, ReadOnlyError, TryAgainError)
"""Refusals that end by themselves, or by a look at the topology."""


class ClusterCopy:
    """Reads and writes the layout of `keys` on a client of `services.common.cache.cluster_client`, which it owns."""

    def __init__(self, client: RedisCluster, *, patience: float = PATIENCE) -> None:
        self._map = ClusterMap(client)
        self._patience = patience
        self._suspects: dict[str, float] = {}

    async def aclose(self) -> None:
        """Close all connections."""
        await self._map.aclose()

    async def ask(self, questions: Mapping[int, Sequence[str]]) -> tuple[Answers, Source]:
        """The markers and values of `questions` (bucket -> keys): all nodes at once, one round trip.

        A master that fails or is slow is replaced by its replica. Raises CopyUnavailableError if a bucket stays
        unanswered. The source is "replica" if any bucket was answered by one.
        """
        await self._connect()
        async with self._map.seats:
            answers = await self._round(questions, replica=False)
            if len(answers) == len(questions):
                return answers, "master"
            self._map.refresh_soon()
            missed = {bucket: keys for bucket, keys in questions.items() if bucket not in answers}
            answers |= await self._round(missed, replica=True)
        if len(answers) < len(questions):
            raise CopyUnavailableError("neither master nor replica of a shard of Redis Cluster answered in time")
        return answers, "replica"

    async def write(
        self,
        commands: Iterable[tuple[int, Command]],
        *,
        seconds: float = WRITE_SECONDS,
        done: Callable[[int], None] | None = None,
    ) -> bool:
        """Run `commands` (bucket, command; safe to repeat) on the masters, riding out a failover for `seconds`.

        `done` is told how many were run since it was last told. Returns whether a replica of every master that was
        written confirmed; an acknowledged write that no replica has is lost with its master.
        Raises CopyUnavailableError.
        """
        left = list(commands)
        if not left:
            return True
        await self._connect()
        end = time.monotonic() + seconds
        confirmed = True
        while True:
            outcomes = await asyncio.gather(
                *(self._write_node(node, group, done) for node, group in self._by_master(left))
            )
            left = [item for failed, _ in outcomes for item in failed]
            confirmed = confirmed and all(safe for _, safe in outcomes)
            if not left:
                return confirmed
            if time.monotonic() >= end:
                raise CopyUnavailableError("a master of Redis Cluster does not answer")
            await asyncio.sleep(REFRESH_PAUSE)
            if not await self._map.refresh():
                raise CopyUnavailableError("no node of Redis Cluster can be reached")

    async def markers(self) -> list[bytes | None]:
        """The markers of all buckets, in order."""
        answers, _ = await self.ask(dict.fromkeys(range(BUCKETS), ()))
        return [answers[bucket][0] for bucket in range(BUCKETS)]

    async def scan(self) -> AsyncIterator[list[tuple[str, bytes, int]]]:
        """Every key of the blacklist on every master, in batches: key, value, and milliseconds left (-1: no expiry).

        Raises CopyUnavailableError.
        """
        if not await self._map.refresh(now=True):  # SCAN is never redirected: the map must be of now
            raise CopyUnavailableError("no node of Redis Cluster can be reached")
        for node in self._map.masters():
            cursor = 0
            while True:
                found = await self._must(node, [("SCAN", cursor, "MATCH", PATTERN, "COUNT", BATCH)])
                cursor = int(found[0][0])
                keys: list[bytes] = found[0][1]
                if keys:
                    said = await self._must(node, [c for key in keys for c in (("GET", key), ("PTTL", key))])
                    pairs = zip(keys, said[0::2], said[1::2], strict=True)
                    yield [(key.decode(), value, left) for key, value, left in pairs if value is not None]
                if cursor == 0:
                    break

    async def _round(self, questions: Mapping[int, Sequence[str]], *, replica: bool) -> Answers:
        """What one node for each bucket answers: its master, or its replica; buckets whose node fails are left out."""
        batches: dict[str, tuple[ClusterNode, list[int], list[Command]]] = {}
        for bucket, keys in questions.items():
            node = self._node(bucket, replica=replica)
            if node is None:
                continue
            batch = batches.get(node.name)
            if batch is None:
                # The connection keeps READONLY; to send it always is cheaper than to know.
                batch = batches[node.name] = (node, [], [READONLY] if replica else [])
            batch[1].append(bucket)
            batch[2].append(("MGET", MARKERS[bucket], *keys))
        flights: list[tuple[Flight, list[int]]] = []
        answers: Answers = {}
        try:
            for node, buckets, commands in batches.values():
                try:
                    flights.append((await send(node, commands, self._patience), buckets))
                except FAULTS:
                    self._suspect(node)
            while flights:
                flight, buckets = flights.pop(0)
                try:
                    replies = await receive(flight, self._patience)
                except FAULTS:
                    self._suspect(flight.node)
                    continue
                for bucket, reply in zip(buckets, replies[-len(buckets) :], strict=True):
                    if not isinstance(reply, ResponseError):
                        answers[bucket] = reply
        finally:
            for flight, _ in flights:
                await drop(flight)
        return answers

    def _node(self, bucket: int, *, replica: bool) -> ClusterNode | None:
        nodes = self._map.nodes(BUCKET_SLOTS[bucket])
        if not nodes:
            return None
        if replica:
            return min(nodes[1:] or nodes, key=lambda node: self._suspects.get(node.name, 0.0))
        return None if self._suspects and self._suspected(nodes[0]) else nodes[0]

    def _suspect(self, node: ClusterNode) -> None:
        self._suspects[node.name] = time.monotonic() + SUSPICION

    def _suspected(self, node: ClusterNode) -> bool:
        until = self._suspects.get(node.name)
        if until is None:
            return False
        if time.monotonic() < until:
            return True
        del self._suspects[node.name]
        return False

    async def _write_node(
        self, node: ClusterNode, commands: list[tuple[int, Command]], done: Callable[[int], None] | None
    ) -> tuple[list[tuple[int, Command]], bool]:
        """The commands that failed and may be repeated, and whether a replica has the others."""
        failed: list[tuple[int, Command]] = []
        confirmed = True
        for start in range(0, len(commands), BATCH):
            chunk = commands[start : start + BATCH]
            try:
                async with self._map.seats:
                    *replies, replicas = await call(node, [*(command for _, command in chunk), WAIT], CALL_SECONDS)
            except FAULTS:
                return failed + commands[start:], confirmed
            failed += [item for item, reply in zip(chunk, replies, strict=True) if _must_repeat(reply)]
            confirmed = confirmed and isinstance(replicas, int) and replicas > 0
            if done is not None:
                done(len(chunk))
        return failed, confirmed

    def _by_master(self, commands: list[tuple[int, Command]]) -> list[tuple[ClusterNode, list[tuple[int, Command]]]]:
        groups: dict[str, tuple[ClusterNode, list[tuple[int, Command]]]] = {}
        for item in commands:
            nodes = self._map.nodes(BUCKET_SLOTS[item[0]])
            if not nodes:
                raise CopyUnavailableError(f"no master of Redis Cluster serves slot {BUCKET_SLOTS[item[0]]}")
            groups.setdefault(nodes[0].name, (nodes[0], []))[1].append(item)
        return list(groups.values())

    async def _must(self, node: ClusterNode, commands: list[Command]) -> list[Reply]:
        try:
            async with self._map.seats:
                replies = await call(node, commands, CALL_SECONDS)
        except FAULTS as error:
            raise CopyUnavailableError(f"{node.name} of Redis Cluster does not answer: {error}") from None
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise CopyUnavailableError(f"{node.name} of Redis Cluster refused {commands[0][0]!r}: {reply}")
        return replies

    async def _connect(self) -> None:
        try:
            await self._map.connect()
        except ConnectionError as error:
            raise CopyUnavailableError(str(error)) from None


def _must_repeat(reply: Reply) -> bool:
    """Whether the command is to be sent again. Raises CopyUnavailableError where that would not help."""
    if not isinstance(reply, ResponseError):
        return False
    if isinstance(reply, PASSING):
        return True
    raise CopyUnavailableError(f"Redis Cluster refused a write: {reply}")
