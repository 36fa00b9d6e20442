"""Migrations on a real database: up, down, to a revision, twice at once; and the models agree with what they make."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from shopfds_ops import migrations
from shopfds_ops.errors import DataError, NotRunningError, UnknownNameError
from shopfds_ops.seed import loader
from shopfds_ops.seed.plan import Plan

HEADS = {service: migrations.chain(service)[-1] for service in migrations.SERVICES}
EMPTY = dict.fromkeys(migrations.SERVICES)
MODELS = {
    "ecommerce": ("services.ecommerce.database", ("services.ecommerce.models",)),
    "fds": ("services.fds.database", ("services.fds.models", "services.fds.blacklist.models")),
}

CATALOG = """
SELECT 'column', c.relname, a.attname,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
                 pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum))
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = %(schema)s::text::regnamespace AND c.relkind = 'r' AND c.relname <> 'alembic_version'
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = %(schema)s::text::regnamespace AND conname <> 'alembic_version_pkc'
UNION ALL
SELECT 'index', tablename, indexname, indexdef
FROM pg_indexes WHERE schemaname = %(schema)s::text AND tablename <> 'alembic_version'
UNION ALL
SELECT 'table', relname, '', coalesce(obj_description(oid), '')
FROM pg_class WHERE relnamespace = %(schema)s::text::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
ORDER BY 1, 2, 3
"""


def _metadata(service: str) -> sa.MetaData:
    base, models = MODELS[service]
    for module in models:
        importlib.import_module(module)
    metadata = importlib.import_module(base).Base.metadata
    assert isinstance(metadata, sa.MetaData)
    return metadata


def _engine(database: str) -> sa.Engine:
    return sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database), poolclass=sa.NullPool)


def _catalog(database: str, schema: str) -> list[tuple[str, ...]]:
    with psycopg.connect(database) as connection:
        return connection.execute(CATALOG, {"schema": schema}).fetchall()


def test_an_empty_database_is_brought_to_the_latest_and_a_second_run_finds_nothing_to_do(database: str) -> None:
    assert migrations.current(database) == EMPTY
    assert set(migrations.pending(database)) == set(HEADS)

    moves = migrations.migrate(database)

    assert {move.service: (move.before, move.after) for move in moves} == {name: (None, HEADS[name]) for name in HEADS}
    assert migrations.current(database) == HEADS
    assert migrations.pending(database) == {}
    assert migrations.migrate(database) == []


def test_every_revision_can_be_taken_back_and_applied_again(database: str) -> None:
    migrations.migrate(database)
    for service in migrations.SERVICES:
        latest = _catalog(database, migrations.SERVICES[service])
        for revision in (*reversed(migrations.chain(service)[:-1]), migrations.BASE):
            moves = migrations.migrate(database, service, revision)
            assert [move.direction for move in moves] == ["downgrade"]
        assert _catalog(database, migrations.SERVICES[service]) == []
        migrations.migrate(database, service)
        assert _catalog(database, migrations.SERVICES[service]) == latest


def test_a_revision_finds_its_service_by_itself(database: str) -> None:
    migrations.migrate(database, revision="0001_transactions")
    assert migrations.current(database) == {"ecommerce": None, "fds": "0001_transactions"}


def test_a_service_is_migrated_alone(database: str) -> None:
    migrations.migrate(database, "ecommerce")
    assert migrations.current(database) == {"ecommerce": HEADS["ecommerce"], "fds": None}


@pytest.mark.parametrize("service", migrations.SERVICES)
def test_autogenerate_finds_nothing_to_add_to_the_migrations(database: str, service: str) -> None:
    migrations.migrate(database, service)
    schema = migrations.SERVICES[service]
    with _engine(database).connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda name, kind, _: kind != "schema" or name == schema,
                "version_table_schema": schema,
                "compare_type": True,
                "compare_server_default": True,
            },
        )
        assert compare_metadata(context, _metadata(service)) == []


@pytest.mark.parametrize("service", migrations.SERVICES)
def test_models_and_migrations_make_the_same_tables_to_the_last_check_and_comment(database: str, service: str) -> None:
    schema = migrations.SERVICES[service]
    migrations.migrate(database, service)
    migrated = _catalog(database, schema)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {schema} CASCADE")
        connection.execute(f"CREATE SCHEMA {schema}")
    _metadata(service).create_all(_engine(database))
    assert _catalog(database, schema) == migrated


@pytest.mark.parametrize("service", migrations.SERVICES)
def test_every_foreign_key_has_an_index_that_begins_with_its_columns(database: str, service: str) -> None:
    migrations.migrate(database, service)
    with psycopg.connect(database) as connection:
        bare = connection.execute(
            """
            SELECT conname FROM pg_constraint AS f
            WHERE contype = 'f' AND connamespace = %s::regnamespace AND NOT EXISTS (
                SELECT FROM pg_index AS i WHERE i.indrelid = f.conrelid AND i.indpred IS NULL
                AND (i.indkey::int2[])[0:cardinality(f.conkey) - 1] @> f.conkey
            )
            """,
            [migrations.SERVICES[service]],
        ).fetchall()
    assert bare == []


def test_two_migrations_at_once_end_well(database: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: migrations.migrate(database), range(4)))
    assert sorted(len(moves) for moves in results) == [0, 0, 0, len(HEADS)]
    assert migrations.current(database) == HEADS


def test_a_migration_that_fails_changes_nothing(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA ecommerce")
        connection.execute("CREATE TABLE ecommerce.users (id int)")  # in the way of the first migration
    with pytest.raises(DataError, match="users"):
        migrations.migrate(database)
    assert migrations.current(database) == EMPTY
    with psycopg.connect(database) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'ecommerce'").fetchall()
    assert tables == [("users",)]


def test_reset_leaves_the_latest_schema_empty_whatever_was_there(database: str) -> None:
    migrations.migrate(database, revision="0001_transactions")
    migrations.migrate(database, "ecommerce")
    loader.seed(database, Plan(users=5, products=5, orders=5, reviews=0))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE VIEW ecommerce.mine AS SELECT * FROM ecommerce.users")
        connection.execute("CREATE TYPE fds.mood AS ENUM ('good', 'bad')")

    migrations.reset(database)

    assert migrations.current(database) == HEADS
    assert loader.outstanding(database) == "the database is empty"
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT to_regclass('ecommerce.mine'), to_regtype('fds.mood')").fetchone() == (
            None,
            None,
        )


def test_names_that_do_not_exist_are_errors_with_a_suggestion(database: str) -> None:
    with pytest.raises(UnknownNameError, match="there is no service with migrations 'ecomerce'") as service:
        migrations.migrate(database, "ecomerce")
    assert "'ecommerce'" in service.value.remedy
    with pytest.raises(UnknownNameError, match="there is no revision '0001_inital'") as revision:
        migrations.migrate(database, revision="0001_inital")
    assert "'0001_initial'" in revision.value.remedy


def test_a_schema_from_a_newer_version_is_left_alone(database: str) -> None:
    migrations.migrate(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE fds.alembic_version SET version_num = '9999_future'")
    with pytest.raises(DataError, match="9999_future"):
        migrations.migrate(database)


def test_a_database_that_does_not_answer_is_named(database: str) -> None:
    nowhere = psycopg.conninfo.make_conninfo(database, host="127.0.0.1", port=1)
    with pytest.raises(NotRunningError, match="port 1"):
        migrations.pending(nowhere)
