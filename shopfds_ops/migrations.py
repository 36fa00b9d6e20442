"""Schema migrations of the services: what is applied, what is pending, and Alembic run from here under a lock."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import psycopg

from shopfds_ops import database
from shopfds_ops.errors import DataError, ShopfdsError, UnknownNameError, UsageError
from shopfds_ops.events import Sink, TaskEvent, discard

if TYPE_CHECKING:
    import sqlalchemy as sa

SERVICES: Mapping[str, str] = MappingProxyType({"ecommerce": "ecommerce", "fds": "fds"})
"""Services that own tables, in the order in which they are migrated, with their schema."""

HEAD, BASE = "head", "base"
PACKAGES = Path(__file__).resolve().parent.parent / "services"
REVISION = re.compile(r'^(down_revision|revision)\b[^=]*=\s*(?:"([^"]+)"|None)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Move:
    """One service's way from revision `before` to `after`; None is the empty schema."""

    service: str
    before: str | None
    after: str | None
    direction: Literal["upgrade", "downgrade"]


def migrate(conninfo: str, service: str | None = None, revision: str = HEAD, sink: Sink = discard) -> list[Move]:
    """Bring one service (or all) to `revision`: head, base, or a revision's id, which may be older than the present.

    Each service moves in one transaction, so a failed migration leaves it as it was. Returns the moves that were made.
    """
    wanted = _targets(service, revision)
    if not _moves(current(conninfo), wanted):
        return []
    with _alembic(conninfo) as connection:
        moves = _moves(_current(_raw(connection)), wanted)
        for move in moves:
            _run(connection, move, sink)
            connection.commit()
    return moves


def plan(conninfo: str, service: str | None = None, revision: str = HEAD) -> list[Move]:
    """The moves that `migrate` would make now."""
    wanted = _targets(service, revision)
    return _moves(current(conninfo), wanted)


def current(conninfo: str) -> dict[str, str | None]:
    """The revision of every service; None where nothing was migrated yet."""
    with database.connect(conninfo) as connection:
        return _current(connection)


def pending(conninfo: str) -> dict[str, tuple[str, ...]]:
    """The revisions that `migrate` would apply, by service; services that are up to date are left out."""
    found: dict[str, tuple[str, ...]] = {}
    for service, applied in current(conninfo).items():
        missing = chain(service)[_position(service, applied) :]
        if missing:
            found[service] = missing
    return found


def reset(conninfo: str, sink: Sink = discard) -> list[Move]:
    """Drop everything in the services' schemas and build the latest: all in one transaction, all or nothing.

    The schemas themselves stay, and with them whatever rights were granted on them.
    """
    moves = [Move(service, None, chain(service)[-1], "upgrade") for service in SERVICES]
    with _alembic(conninfo) as connection:
        for statement in _raw(connection).execute(_DROPS, [list(SERVICES.values())]).fetchall():
            _raw(connection).execute(statement[0])
        for move in moves:
            _run(connection, move, sink)
        connection.commit()
    return moves


@cache
def chain(service: str) -> tuple[str, ...]:
    """All revisions of a service, oldest first, read from its migration files without importing Alembic."""
    after: dict[str | None, str] = {}
    for file in sorted((_folder(service) / "versions").glob("*.py")):
        found = {match[1]: match[2] or None for match in REVISION.finditer(file.read_text())}
        revision, parent = found.get("revision"), found.get("down_revision")
        if revision is None or parent in after:
            raise ShopfdsError(
                f"{file}: not the one successor of revision {parent or BASE}",
                remedy="a service's history has no branches: correct revision and down_revision",
            )
        after[parent] = revision
    ordered: list[str] = []
    following = after.get(None)
    while following is not None:
        ordered.append(following)
        following = after.get(following)
    if len(ordered) != len(after):
        lost = sorted(set(after.values()) - set(ordered))
        raise ShopfdsError(
            f"migrations of {service} that follow nothing: {', '.join(lost)}", remedy="correct their down_revision"
        )
    return tuple(ordered)


_DROPS = """
    SELECT format('DROP %%s IF EXISTS %%I.%%I CASCADE', kind, nspname, name)
    FROM (
        SELECT CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
               ELSE 'TABLE' END AS kind, relnamespace AS namespace, relname AS name
        FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S')
        UNION ALL
        SELECT 'TYPE', typnamespace, typname FROM pg_type WHERE typtype IN ('e', 'd')
        UNION ALL
        SELECT 'ROUTINE', pronamespace, proname FROM pg_proc
    ) AS objects
    JOIN pg_namespace ON pg_namespace.oid = namespace
    WHERE nspname = ANY (%s)
    ORDER BY kind = 'TABLE' DESC, kind
"""


def _folder(service: str) -> Path:
    return PACKAGES / service / "migrations"


def _targets(service: str | None, revision: str) -> dict[str, str | None]:
    """The revision each service shall have; a revision's id finds its service by itself."""
    if service is not None and service not in SERVICES:
        raise UnknownNameError("service with migrations", service, SERVICES)
    services = [service] if service else list(SERVICES)
    if revision in (HEAD, BASE):
        return {name: chain(name)[-1] if revision == HEAD else None for name in services}
    owners = [name for name in services if revision in chain(name)]
    if not owners:
        known = {known for name in services for known in chain(name)}
        raise UnknownNameError("revision", revision, {*known, HEAD, BASE})
    if len(owners) > 1:
        raise UsageError(
            f"revision '{revision}' exists in {' and '.join(owners)}", remedy=f"add --service {owners[0]}, say"
        )
    return {owners[0]: revision}


def _moves(present: Mapping[str, str | None], wanted: Mapping[str, str | None]) -> list[Move]:
    moves = []
    for service, target in wanted.items():
        here, there = _position(service, present[service]), _position(service, target)
        if here != there:
            moves.append(Move(service, present[service], target, "upgrade" if there > here else "downgrade"))
    return moves


def _position(service: str, revision: str | None) -> int:
    """How many revisions are applied when a service is at `revision`."""
    if revision is None:
        return 0
    try:
        return chain(service).index(revision) + 1
    except ValueError:
        raise DataError(
            f"the schema of {service} is at revision '{revision}', which this version of ShopFDS does not have",
            remedy="use the version that made it, or start anew with `shopfds reset-db`",
        ) from None


def _current(connection: psycopg.Connection) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for service, schema in SERVICES.items():
        table = psycopg.sql.Identifier(schema, "alembic_version")
        exists = connection.execute("SELECT to_regclass(%s)", [f"{schema}.alembic_version"]).fetchone()
        row = None
        if exists and exists[0]:
            row = connection.execute(psycopg.sql.SQL("SELECT version_num FROM {}").format(table)).fetchone()
        found[service] = row[0] if row else None
    return found


@contextmanager
def _alembic(conninfo: str) -> Iterator[sa.Connection]:
    """A SQLAlchemy connection for Alembic that holds the locks of migrations and seeds.

    Two migrations at once come one after the other, and no table goes away under a seed.
    """
    import sqlalchemy as sa  # noqa: PLC0415 - `pending` is asked by every `up`, and needs none of this

    with database.connect(conninfo, autocommit=False) as raw:
        engine = sa.create_engine("postgresql+psycopg://", creator=lambda: raw, poolclass=sa.StaticPool)
        raw.autocommit = True
        with (
            database.exclusive(raw, database.MIGRATION_LOCK, "migration"),
            database.exclusive(raw, database.SEED_LOCK, "seed"),
        ):
            raw.autocommit = False
            try:
                with engine.connect() as connection:
                    yield connection
            except sa.exc.DBAPIError as error:
                raise (error.orig or error) from error
            finally:
                raw.rollback()
                raw.autocommit = True


def _raw(connection: sa.Connection) -> psycopg.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)  # noqa: S101 - the engine above makes no other
    return raw


def _run(connection: sa.Connection, move: Move, sink: Sink) -> None:
    from alembic import command  # noqa: PLC0415 - see _alembic
    from alembic.config import Config  # noqa: PLC0415

    name = f"migrate {move.service}"
    detail = f"{move.before or 'empty'} -> {move.after or 'empty'}"
    started = time.monotonic()
    sink(TaskEvent(name, "started", detail))
    config = Config()
    config.set_main_option("script_location", str(_folder(move.service)).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    apply = command.upgrade if move.direction == "upgrade" else command.downgrade
    apply(config, move.after or BASE)
    sink(TaskEvent(name, "changed", detail, time.monotonic() - started))


def moved(moves: Sequence[Move]) -> str:
    """The moves as one line for people."""
    if not moves:
        return "every schema is up to date"
    return ", ".join(f"{move.service} {move.before or 'empty'} -> {move.after or 'empty'}" for move in moves)
