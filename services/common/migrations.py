"""How every service runs its Alembic migrations: the one environment behind all `migrations/env.py`."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, MetaData, create_engine, text
from sqlalchemy.pool import NullPool


def run(metadata: MetaData) -> None:
    """Run the migrations that Alembic asks for, in one transaction, in the schema of `metadata`.

    The connection comes in `config.attributes["connection"]` (as `shopfds migrate` does); without one, libpq's own
    environment (PGHOST, PGUSER, PGSERVICE ...) says where to, so that `alembic -c services/alembic.ini -n fds` works.
    """
    if context.is_offline_mode():
        context.configure(
            dialect_name="postgresql",
            target_metadata=metadata,
            version_table_schema=metadata.schema,
            literal_binds=True,
        )
        with context.begin_transaction():
            context.run_migrations()
        return
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is not None:
        _migrate(connection, metadata)
        return
    with create_engine("postgresql+psycopg://", poolclass=NullPool).connect() as own, own.begin():
        _migrate(own, metadata)


def _migrate(connection: Connection, metadata: MetaData) -> None:
    schema = metadata.schema
    # Asked first, because CREATE SCHEMA IF NOT EXISTS needs the right to create even where there is nothing to do.
    exists = connection.scalar(text("SELECT 1 FROM pg_namespace WHERE nspname = :name"), {"name": schema})
    if not exists:
        connection.execute(text(f'CREATE SCHEMA "{schema}"'))

    def include_name(name: str | None, kind: str, _: object) -> bool:
        return kind != "schema" or name == schema

    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table_schema=schema,
        include_schemas=True,
        include_name=include_name,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()
