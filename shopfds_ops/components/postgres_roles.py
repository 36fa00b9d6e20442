"""PostgreSQL's roles: who they are, what they may do, how this machine logs in as them, and mending their passwords."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import psycopg
from psycopg import sql

from shopfds_ops.components.base import PUT_IN_FORCE, Live
from shopfds_ops.components.postgres_scram import verifier
from shopfds_ops.events import Note
from shopfds_ops.result import Problem
from shopfds_ops.secrets import Secrets
from shopfds_ops.steps import Run

PRIMARY = "postgres-primary"
REPLICA = "postgres-replica"
HEARTBEAT = "postgres-heartbeat"
CONNECT_SECONDS = 2
SUPERUSER_REMEDY = "restore POSTGRES_PASSWORD in .env to the value that the data were made with"


PASSWORDS: Mapping[str, str] = {
    "postgres": "POSTGRES_PASSWORD",
    "replicator": "POSTGRES_REPLICATOR_PASSWORD",
    "shopfds": "POSTGRES_APP_PASSWORD",
    "monitor": "POSTGRES_MONITOR_PASSWORD",
}
ATTRIBUTES: Mapping[str, str] = {
    "replicator": "LOGIN REPLICATION",
    "shopfds": "LOGIN",
    "monitor": "LOGIN",
}


MEMBERSHIP = sql.Composed([sql.SQL("GRANT pg_monitor TO monitor;")])


def conninfo(live: Live, role: str, member: str = "primary", database: str | None = None) -> str:
    """libpq connection string, password included, by which this machine reaches the primary or the replica."""
    host, port = live.address(PRIMARY if member == "primary" else REPLICA, "postgres")
    return psycopg.conninfo.make_conninfo(
        host=host,
        port=port,
        user=role,
        password=live.secrets[PASSWORDS[role]],
        dbname=database or live.settings.postgres.database,
        application_name="shopfds",
    )


def bootstrap(secrets: Secrets, database: str) -> str:
    """What a new primary runs once, before anybody can connect: one SQL statement on each line."""
    statements = [_role("CREATE", role, secrets) for role in ATTRIBUTES]
    statements += [MEMBERSHIP, *_database_statements(database)]
    return "".join(f"{statement.as_string(None)}\n" for statement in statements)


def passfile(secrets: Secrets) -> str:
    """libpq's password file for the replica, which logs in to the primary again and again."""
    return f"*:*:*:replicator:{_escaped(secrets[PASSWORDS['replicator']])}\n"


def check(live: Live) -> str | None:
    """None when each role but the superuser logs in with its password in .env and has its rights, else who does not."""
    for role in ATTRIBUTES:
        if said := _login(live, role):
            return f"role {role} cannot log in: {said}"
    with psycopg.connect(conninfo(live, "monitor"), connect_timeout=CONNECT_SECONDS) as connection:
        row = connection.execute("SELECT pg_has_role('pg_monitor', 'USAGE')").fetchone()
    return None if row == (True,) else "role monitor is not a member of pg_monitor"


def mend(live: Live, run: Run) -> None:
    """Create what is missing, and set every password and right as it must be. Safe to repeat."""
    with psycopg.connect(
        conninfo(live, "postgres", database="postgres"), connect_timeout=CONNECT_SECONDS, autocommit=True
    ) as connection:
        for role in ATTRIBUTES:
            known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
            connection.execute(_role("ALTER" if known else "CREATE", role, live.secrets))
        connection.execute(MEMBERSHIP)
        database = live.settings.postgres.database
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone()
        for statement in _database_statements(database)[1 if known else 0 :]:
            connection.execute(statement)
    run.sink(Note("info", "PostgreSQL's roles and their passwords now are as .env says"))


def refused(live: Live) -> Sequence[Problem]:
    """The secrets that the primary refuses."""
    return [
        Problem(name, f"role {role} cannot log in", SUPERUSER_REMEDY if role == "postgres" else PUT_IN_FORCE)
        for role, name in PASSWORDS.items()
        if "authentication failed" in (_login(live, role) or "")
    ]


def _login(live: Live, role: str) -> str | None:
    """What the primary says when it does not let the role in."""
    replication = " replication=true" if role == "replicator" else ""
    try:
        psycopg.connect(conninfo(live, role) + replication, connect_timeout=CONNECT_SECONDS).close()
    except psycopg.Error as error:
        return " ".join(str(error).split())
    return None


def _role(verb: Literal["CREATE", "ALTER"], role: str, secrets: Secrets) -> sql.Composed:
    """With the verifier, not the password: statements end up in logs."""
    return sql.SQL("{} ROLE {} {} PASSWORD {};").format(
        sql.SQL(verb),
        sql.Identifier(role),
        sql.SQL(ATTRIBUTES[role]),
        verifier(secrets[PASSWORDS[role]], role),
    )


def _database_statements(database: str) -> list[sql.Composed]:
    name = sql.Identifier(database)
    return [
        sql.SQL("CREATE DATABASE {} OWNER shopfds;").format(name),
        sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC;").format(name),
        sql.SQL("GRANT CONNECT, CREATE ON DATABASE {} TO monitor;").format(name),
    ]


def _escaped(password: str) -> str:
    return password.replace("\\", "\\\\").replace(":", "\\:")
