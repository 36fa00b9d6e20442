"""Commands of many callers to one Redis node, in one batch: who asks while a batch is under way goes with the next one.

A connection per caller would cost more than the commands, and a burst after the start would spend its patience on
making them. Here a node has one batch under way, whatever the number of callers.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from redis.asyncio.cluster import ClusterNode

from services.common.redis_wire import FAULTS, Command, Reply, call

LONGEST = 200
"""Commands in one batch: some milliseconds of a node's time."""
FAULTS_IN_A_ROW = 3
SUSPICION = 0.25
"""Seconds for which a node is not asked after so many batches in a row failed: callers are refused at once then, not
after a wait. One slow answer on a busy machine is no reason for that."""

_Question = tuple[Sequence[Command], asyncio.Future[list[Reply]]]


class Batches:
    """Batches to the nodes of one cluster; `patience` in seconds is for one batch. Within one event loop."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._waiting: dict[str, deque[_Question]] = {}
        self._senders: dict[str, asyncio.Task[None]] = {}
        self._faults: dict[str, int] = {}
        self._suspects: dict[str, float] = {}

    async def aclose(self) -> None:
        """Give up what is under way; who waits for it is cancelled."""
        for task in self._senders.values():
            task.cancel()
        await asyncio.gather(*self._senders.values(), return_exceptions=True)
        for waiting in self._waiting.values():
            for _, answer in waiting:
                answer.cancel()

    async def ask(self, node: ClusterNode, commands: Sequence[Command]) -> list[Reply]:
        """The node's replies to `commands`, in their order. Raises one of FAULTS, after two patiences at most as long
        as not more than LONGEST commands wait."""
        if time.monotonic() < self._suspects.get(node.name, float("-inf")):
            raise ConnectionError(f"{node.name} of Redis Cluster did not answer lately")
        answer: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(node.name, deque()).append((commands, answer))
        if node.name not in self._senders:
            self._senders[node.name] = asyncio.create_task(self._send(node))
        return await answer

    async def _send(self, node: ClusterNode) -> None:
        waiting = self._waiting[node.name]
        try:
            while waiting:
                batch: list[_Question] = []
                commands: list[Command] = []
                while waiting and len(commands) + len(waiting[0][0]) <= max(LONGEST, len(waiting[0][0])):
                    batch.append(waiting.popleft())
                    commands += batch[-1][0]
                await self._exchange(node, batch, commands)
        finally:
            del self._senders[node.name]

    async def _exchange(self, node: ClusterNode, batch: list[_Question], commands: list[Command]) -> None:
        try:
            async with asyncio.timeout(self._patience):
                replies = await call(node, commands, self._patience)
        except FAULTS as error:
            self._faults[node.name] = self._faults.get(node.name, 0) + 1
            if self._faults[node.name] >= FAULTS_IN_A_ROW:
                self._suspects[node.name] = time.monotonic() + SUSPICION
            for _, answer in batch:
                if not answer.done():  # its caller may have given up
                    answer.set_exception(error)
            return
        except BaseException:
            for _, answer in batch:
                answer.cancel()
            raise
        self._faults[node.name] = 0
        for asked, answer in batch:
            mine, replies = replies[: len(asked)], replies[len(asked) :]
            if not answer.done():
                answer.set_result(mine)
