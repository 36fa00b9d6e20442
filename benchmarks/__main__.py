"""All benchmarks in one table: `make bench`. ARGS="--million" seeds a million orders too (about five minutes)."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator

from benchmarks import blacklist, commands, seed, up
from benchmarks.row import Row
from benchmarks.scratch import Scratch
from shopfds_ops.components import postgres, redis_cluster
from shopfds_ops.seed.plan import Plan, scaled


def rows(million: bool) -> Iterator[Row]:
    """Every row, as it is measured."""
    yield commands.help_row()
    yield from up.run()
    with Scratch() as scratch:
        scratch.shopfds("up", "--no-seed")
        live = scratch.stack().live
        conninfo = postgres.conninfo(live, "shopfds")
        endpoints = redis_cluster.endpoints(live)
        yield from asyncio.run(blacklist.run(endpoints, conninfo, live.secrets["REDIS_APP_PASSWORD"]))
        yield blacklist.import_row(scratch)
        yield from seed.measure(conninfo, Plan(), seed.LIMIT_DEFAULT)
        yield commands.status_row(scratch)  # of a stack with data in it
        if million:
            yield from seed.measure(conninfo, scaled(Plan(), 100, {}), seed.LIMIT_MILLION, rounds=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--million", action="store_true", help="seed a million orders too")
    given = parser.parse_args()
    print(f"{'':<52} {'ours':>9} {'by hand':>9} {'ratio':>6} {'limit':>6}")
    kept = True
    for row in rows(given.million):
        by_hand = "" if row.by_hand is None else f"{row.by_hand:.3f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        mark = "[OK]" if row.kept else "[FAIL]"
        print(f"{row.what:<52} {row.ours:>9.3f} {by_hand:>9} {ratio:>6} {row.limit:>6.2f} {mark}", flush=True)
        kept = kept and row.kept
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
