"""`seed` against `psql \\copy` of the very same rows into the same tables, indexes and constraints in place.

The seeded tables are emptied: not for a database in use.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.row import Row
from shopfds_ops import migrations
from shopfds_ops.seed import checks, loader
from shopfds_ops.seed.generator import Generator
from shopfds_ops.seed.plan import Plan
from shopfds_ops.seed.rows import COLUMNS, FirstIds

LIMIT_DEFAULT, LIMIT_MILLION = 3.0, 1.5
LIMIT_MEMORY = 300.0
"""MB at one million orders."""

OURS = """
import sys
from shopfds_ops.seed import loader
from shopfds_ops.seed.plan import Plan

users, products, orders, reviews, rng_seed = map(int, sys.argv[1:])
plan = Plan(users=users, products=products, orders=orders, reviews=reviews, rng_seed=rng_seed)
loader.seed(sys.stdin.read(), plan)
# Not ru_maxrss: it remembers what the process was before it became this program.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""


def measure(conninfo: str, plan: Plan, limit: float, rounds: int = 3) -> list[Row]:
    """Whole processes, interpreter start included, by turns; the middle of `rounds`. Empties the database's tables."""
    migrations.migrate(conninfo)
    by_hand, ours, memory = [], [], 0.0
    with tempfile.TemporaryDirectory(prefix="shopfds-bench-") as folder:
        files = _dump(plan, Path(folder))
        for _ in range(rounds):
            _empty(conninfo)
            by_hand.append(_timed(_psql(files), conninfo)[0])
            copied = loader.counts(conninfo)
            _empty(conninfo)
            seconds, kilobytes = _timed([sys.executable, "-c", OURS, *map(str, _sizes(plan))], conninfo)
            ours.append(seconds)
            memory = max(memory, int(kilobytes) / 1024)
            if loader.counts(conninfo) != copied:
                raise RuntimeError(f"not the same rows: {loader.counts(conninfo)}, by hand {copied}")
    broken = [item for item in checks.check(conninfo) if item.violations]
    if broken:
        raise RuntimeError(f"the seeded rows do not agree: {broken}")
    mine, theirs = statistics.median(ours), statistics.median(by_hand)
    return [
        Row(f"seed of {plan.orders} orders, s", mine, theirs, mine / theirs, limit),
        Row(f"memory for {plan.orders} orders, MB", memory, None, None, LIMIT_MEMORY),
    ]


def _sizes(plan: Plan) -> tuple[int, ...]:
    return plan.users, plan.products, plan.orders, plan.reviews, plan.rng_seed


def _dump(plan: Plan, folder: Path) -> dict[str, Path]:
    """The rows as files, one per table, in an order that satisfies the foreign keys."""
    files = {table: folder / f"{table}.copy" for table in COLUMNS}
    streams = {table: file.open("wb") for table, file in files.items()}
    for chunk in Generator(plan, FirstIds(), 1).chunks():
        for rows in chunk.rows:
            streams[rows.table].write(rows.data)
    for stream in streams.values():
        stream.close()
    return files


def _psql(files: dict[str, Path]) -> list[str]:
    command = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"]
    for table, file in files.items():
        command += ["-c", f"\\copy {table} ({', '.join(COLUMNS[table])}) FROM '{file}'"]
    return command


def _timed(command: list[str], conninfo: str) -> tuple[float, str]:
    """Seconds of one process, and what it printed.

    It finds the database by libpq's environment, or by the conninfo on its stdin.
    """
    given = conninfo_to_dict(conninfo)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    environment = os.environ | {variable: str(given[name]) for name, variable in names.items() if name in given}
    started = time.perf_counter()
    done = subprocess.run(command, input=conninfo, text=True, env=environment, check=True, stdout=subprocess.PIPE)
    return time.perf_counter() - started, done.stdout


def _empty(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        tables = ", ".join((*COLUMNS, "ecommerce.seed_batches"))
        connection.execute(f"TRUNCATE {tables} RESTART IDENTITY")
