"""The blacklist against the same work by hand, in one run: an order's check against a raw pipeline, and a large import.

It lists values of its own (reason `benchmark`). Times are in milliseconds unless a row says seconds.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

from redis.asyncio.cluster import RedisCluster

from benchmarks.row import Row
from benchmarks.scratch import Scratch
from services.common.cache import Endpoint, cluster_client
from services.fds.blacklist.entries import Kind, Order, Target
from services.fds.blacklist.keys import Lengths, key_of, questions
from services.fds.blacklist.manager import BlacklistManager, proposal

ACTOR = "benchmark"
RANGES = ("198.18.7.0/24", "198.19.0.0/16")
LIMIT = 1.2
IMPORT_SECONDS = 10.0


def order(number: int) -> Order:
    """An order like any other: nothing of it is listed. Ten keys with two lengths of ranges in use."""
    return Order(
        ip=f"192.0.{number >> 8 & 255}.{number & 255}",
        card_bin=f"{41000000 + number:08d}",
        email=f"customer{number}@mail.example.net",
        user=str(number),
        device=f"device-{number:08x}",
    )


async def pipeline(client: RedisCluster, keys: list[str]) -> list[bytes | None]:
    """What one would write by hand: redis-py's cluster pipeline, one GET for each key."""
    pipe = client.pipeline()
    for key in keys:
        pipe.get(key)
    answers: list[bytes | None] = await pipe.execute()
    return answers


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter()
    await call()
    return (time.perf_counter() - start) * 1000


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


async def compare(manager: BlacklistManager, client: RedisCluster, orders: int, callers: int) -> list[Row]:
    """Checks and raw pipelines in turn, the first of each pair changing, by `callers` at once."""
    lengths = Lengths.of(Target.parse(Kind.ip, text) for text in RANGES)
    ours: list[float] = []
    raw: list[float] = []

    async def caller(first: int, record: bool) -> None:
        for number in range(first, first + orders // callers if record else first + 50):
            one = order(number)
            keys = [key_of(question) for target in one.targets() for question in questions(target, lengths)]
            runs = [
                (ours, lambda one=one: manager.check_order(one)),
                (raw, lambda keys=keys: pipeline(client, keys)),
            ]
            for times, call in runs if number % 2 else reversed(runs):
                took = await timed(call)
                if record:
                    times.append(took)

    await asyncio.gather(*(caller(index * 1000, False) for index in range(callers)))  # connections, caches
    gc.collect()
    await asyncio.gather(*(caller(index * orders, True) for index in range(callers)))
    keys = sum(len(questions(target, lengths)) for target in order(1).targets())
    rows: list[Row] = []
    for percent in (50, 99):
        mine, theirs = percentile(ours, percent), percentile(raw, percent)
        rows.append(
            Row(f"order check, {keys} keys, {callers} caller(s), p{percent} ms", mine, theirs, mine / theirs, LIMIT)
        )
    return rows


def import_row(scratch: Scratch, entries: int = 100_000) -> Row:
    """`shopfds blacklist import` of a file of new entries, into record and copy; they stay listed."""
    file = scratch.folder / "import.csv"
    lines = (f"user,benchmark-{number},{ACTOR},{1 + number % 30}d\n" for number in range(entries))
    file.write_text("type,value,reason,ttl\n" + "".join(lines))
    start = time.perf_counter()
    said = json.loads(scratch.shopfds("blacklist", "import", str(file), "--format", "json"))
    seconds = time.perf_counter() - start
    if said["data"]["copied"] == "pending" or said["data"]["counts"] != {"added": entries}:
        raise RuntimeError(f"the import did not do its work: {said}")
    return Row(f"blacklist import of {entries} entries, s", seconds, None, None, IMPORT_SECONDS)


async def run(endpoints: Sequence[Endpoint], conninfo: str, password: str, orders: int = 5000) -> list[Row]:
    """`password` is that of the Redis user shopfds; `conninfo` is of the role shopfds."""
    client = cluster_client(endpoints, "shopfds", password)
    try:
        async with BlacklistManager.connect(conninfo, endpoints, "shopfds", password) as manager:
            listed = [proposal(Target.parse(Kind.ip, text), dt.timedelta(hours=1), ACTOR) for text in RANGES]
            await manager.add_entries(listed, actor=ACTOR)
            rows = await compare(manager, client, orders, 1)
            rows += await compare(manager, client, orders, 20)
            await manager.remove_entries([one.target for one in listed], actor=ACTOR, reason=ACTOR)
            return rows
    finally:
        await client.aclose()
