"""The data in the stack: migrated, seeded if empty, the blacklist's fast copy restored, and counted for `status`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from shopfds_ops import migrations
from shopfds_ops.components import postgres
from shopfds_ops.components.base import Live, Report
from shopfds_ops.events import Sink
from shopfds_ops.result import Problem, Table
from shopfds_ops.seed import loader
from shopfds_ops.seed.plan import Plan
from shopfds_ops.steps import Step

NAME = "data"
MIGRATE = "data.migrate"
SEED = "data.seed"
COUNT_LIMIT = 1_000_000
"""Tables with more rows are not counted but estimated, so that `status` stays fast."""

_TABLES = """
SELECT schemaname, relname, greatest(n_live_tup, 0)::bigint
FROM pg_stat_user_tables WHERE schemaname = ANY (%s) AND relname <> 'alembic_version'
ORDER BY schemaname, relname
"""


@dataclass(frozen=True, slots=True)
class TableCount:
    """Rows of one table; `exact` is False for the server's own estimate."""

    schema: str
    table: str
    rows: int
    exact: bool


def steps(live: Live) -> Sequence[Step]:
    """Migrate and seed, as steps of the graph: in this order."""

    def check_migrations() -> str | None:
        pending = migrations.pending(postgres.conninfo(live, "shopfds"))
        return f"pending: {', '.join(revision for item in pending.values() for revision in item)}" if pending else None

    def migrate(sink: Sink) -> None:
        migrations.migrate(postgres.conninfo(live, "shopfds"), sink=sink)

    def check_seed() -> str | None:
        return loader.outstanding(postgres.conninfo(live, "shopfds"))

    def seed(sink: Sink) -> None:
        sizes = live.settings.seed
        plan = Plan(
            users=sizes.users,
            products=sizes.products,
            orders=sizes.orders,
            reviews=sizes.reviews,
            rng_seed=sizes.rng_seed,
        )
        loader.seed(postgres.conninfo(live, "shopfds"), plan, "if-empty", sink)

    return (
        Step(MIGRATE, check_migrations, migrate, requires=("postgres.roles",)),
        Step(SEED, check_seed, seed, requires=(MIGRATE,)),
    )


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
    """Rows per table, as Report for `status`."""
    try:
        found = counts(postgres.conninfo(live, "shopfds"))
    except psycopg.Error as error:
        said = " ".join(str(error).split())
        return Report(NAME, None, (), (Problem(NAME, f"cannot be counted: {said}", "`shopfds status postgres`"),))
    if not found:
        return Report(NAME, found, (), (Problem(NAME, "has no tables", "`shopfds migrate`, or `shopfds up`"),))
    rows = tuple((item.schema, item.table, f"{'' if item.exact else '~'}{item.rows}") for item in found)
    return Report(NAME, found, (Table("Data", ("schema", "table", ">rows"), rows),))
