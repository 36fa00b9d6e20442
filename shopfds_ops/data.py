"""The data in the stack: migrated, seeded if empty, the blacklist's copy kept complete, and counted for `status`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from services.fds.blacklist.manager import BlacklistManager
from shopfds_ops import blacklist, migrations
from shopfds_ops.components import postgres
from shopfds_ops.components.base import Live, Report
from shopfds_ops.errors import DataError, ShopfdsError
from shopfds_ops.events import Sink
from shopfds_ops.result import Problem, Table
from shopfds_ops.steps import Run, Step

NAME = "data"
SERVER = "postgres"
COPY = "redis-cluster"
"""The components that hold the data, and the blacklist's copy."""
MIGRATE = "data.migrate"
SEED = "data.seed"
BLACKLIST = "data.blacklist"
COUNT_LIMIT = 1_000_000
"""Tables with more rows are not counted but estimated, so that `status` stays fast."""

_TABLES = """
SELECT schemaname, relname, greatest(n_live_tup, 0)::bigint
FROM pg_stat_user_tables
WHERE schemaname = ANY (%s)
  AND relname NOT IN ('alembic_version', 'seed_batches', 'blacklist_applied', 'blacklist_workers')
ORDER BY schemaname, relname
"""

_ACTIVE = """
SELECT kind, count(*), count(*) FILTER (WHERE expires_at IS NULL), min(expires_at)
FROM fds.blacklist_entries WHERE expires_at IS NULL OR expires_at > now() GROUP BY kind ORDER BY kind
"""


@dataclass(frozen=True, slots=True)
class TableCount:
    """Rows of one table; `exact` is False for the server's own estimate."""

    schema: str
    table: str
    rows: int
    exact: bool


@dataclass(frozen=True, slots=True)
class ListedCount:
    """Active blacklist entries of one type."""

    kind: str
    active: int
    permanent: int
    next_expiry: dt.datetime | None


@dataclass(frozen=True, slots=True)
class DataReport:
    """Rows per table, blacklist entries by type, and what their copy in Redis Cluster lacks (None: nothing)."""

    tables: tuple[TableCount, ...]
    blacklist: tuple[ListedCount, ...]
    copy_lacks: str | None


def steps(live: Live) -> Sequence[Step]:
    """Migrate, seed, and complete the blacklist's copy, as steps of the graph: in this order."""

    # The generator's word lists take longer to import than `status` has to spare.
    from shopfds_ops.seed import loader  # noqa: PLC0415
    from shopfds_ops.seed.plan import scaled  # noqa: PLC0415

    def check_migrations() -> str | None:
        pending = migrations.pending(postgres.conninfo(live, "shopfds"))
        return f"pending: {', '.join(revision for item in pending.values() for revision in item)}" if pending else None

    def migrate(run: Run) -> None:
        migrations.migrate(postgres.conninfo(live, "shopfds"), sink=run.sink)

    def check_seed() -> str | None:
        return loader.outstanding(postgres.conninfo(live, "shopfds"))

    def seed(run: Run) -> None:
        plan = scaled(live.settings.seed, 1.0, {})
        loader.seed(postgres.conninfo(live, "shopfds"), plan, "if-empty", run.sink)

    return (
        Step(MIGRATE, check_migrations, migrate, requires=("postgres.roles",)),
        Step(SEED, check_seed, seed, requires=(MIGRATE,)),
        Step(
            BLACKLIST,
            lambda: blacklist.run(live, BlacklistManager.outstanding),
            lambda _: _settle(live),
            requires=(MIGRATE, "redis-cluster.replicas"),
        ),
    )


def migrate(live: Live, service: str | None, revision: str, sink: Sink) -> list[migrations.Move]:
    """Bring schemas to a revision; where that dropped the blacklist's record, its copy forgets the entries as well."""
    moves = migrations.migrate(postgres.conninfo(live, "shopfds"), service, revision, sink)
    if any(move.service == "fds" and move.direction == "downgrade" for move in moves):
        _distrust_copy(live)
    return moves


def reset(live: Live, sink: Sink) -> list[migrations.Move]:
    """Drop all tables and create the latest schema; the blacklist's copy forgets the entries that the record lost."""
    moves = migrations.reset(postgres.conninfo(live, "shopfds"), sink)
    _distrust_copy(live)
    _settle(live)
    return moves


def counts(conninfo: str) -> tuple[TableCount, ...]:
    """Rows of every table of the services."""
    found = []
    with psycopg.connect(conninfo, connect_timeout=2, autocommit=True) as connection:
        for schema, table, estimate in connection.execute(_TABLES, [list(migrations.SERVICES.values())]).fetchall():
            if estimate > COUNT_LIMIT:
                found.append(TableCount(schema, table, estimate, exact=False))
                continue
            query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
            row = connection.execute(query).fetchone()
            found.append(TableCount(schema, table, row[0] if row else 0, exact=True))
    return tuple(found)


def report(live: Live) -> Report:
    """Rows per table and blacklist entries, as Report for `status`."""
    conninfo = postgres.conninfo(live, "shopfds")
    try:
        found = counts(conninfo)
        listed = _listed(conninfo) if any(item.table == "blacklist_entries" for item in found) else ()
    except psycopg.Error as error:
        said = " ".join(str(error).split())
        return Report(NAME, None, (), (Problem(NAME, f"cannot be counted: {said}", "`shopfds status postgres`"),))
    if not found:
        return Report(NAME, None, (), (Problem(NAME, "has no tables", "`shopfds migrate`, or `shopfds up`"),))
    lacks = _copy_lacks(live)
    shown = tuple(
        (
            item.kind,
            str(item.active),
            str(item.permanent),
            f"{item.next_expiry:%Y-%m-%d %H:%M}" if item.next_expiry else "-",
        )
        for item in listed
    )
    tables = (
        Table(
            "Data",
            ("schema", "table", ">rows"),
            tuple((item.schema, item.table, f"{'' if item.exact else '~'}{item.rows}") for item in found),
        ),
        Table(
            "Blacklist",
            ("type", ">active", ">permanent", "next expiry (UTC)"),
            shown,
            caption=f"copy in Redis Cluster: {lacks or 'complete'}" + ("" if shown else "; no entries"),
        ),
    )
    problem = Problem(COPY, f"lacks entries of the blacklist: {lacks}", "`shopfds blacklist rebuild`, or `shopfds up`")
    return Report(NAME, DataReport(found, listed, lacks), tables, (problem,) if lacks else ())


def _listed(conninfo: str) -> tuple[ListedCount, ...]:
    with psycopg.connect(conninfo, connect_timeout=2, autocommit=True) as connection:
        return tuple(ListedCount(*row) for row in connection.execute(_ACTIVE).fetchall())


def _copy_lacks(live: Live) -> str | None:
    try:
        return blacklist.run(live, BlacklistManager.outstanding)
    except ShopfdsError as error:
        return f"cannot be asked: {error.what}"


def _distrust_copy(live: Live) -> None:
    """Raises ShopfdsError if Redis Cluster cannot be reached: the schema has moved all the same."""
    try:
        blacklist.run(live, BlacklistManager.distrust)
    except ShopfdsError as error:
        raise DataError(
            f"the schema has moved, but the blacklist's copy in Redis Cluster still holds old entries: {error.what}",
            remedy="`shopfds up`, then `shopfds blacklist rebuild`",
        ) from None


def _settle(live: Live) -> None:
    blacklist.run(live, BlacklistManager.settle)
