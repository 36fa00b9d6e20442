"""Secrets: generated once, kept in `.env` (0600), never printed, never overwritten."""

from __future__ import annotations

import io
import secrets as random_source
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values

from shopfds_ops.errors import SecretsError
from shopfds_ops.files import write_atomically

PURPOSES: Mapping[str, str] = {
    "POSTGRES_PASSWORD": "PostgreSQL superuser (postgres): initialization only",
    "POSTGRES_REPLICATOR_PASSWORD": "PostgreSQL replicator: streaming replication",
    "POSTGRES_APP_PASSWORD": "PostgreSQL shopfds: owner of the schemas, used by the services",
    "POSTGRES_MONITOR_PASSWORD": "PostgreSQL monitor: heartbeat and status",
    "REDIS_ADMIN_PASSWORD": "Redis admin: cluster management",
    "REDIS_APP_PASSWORD": "Redis shopfds: the services",
    "REDIS_REPLICATION_PASSWORD": "Redis replication: replicas to their masters",
    "RABBITMQ_PASSWORD": "RabbitMQ shopfds: the services and the management page",
}


@dataclass(frozen=True)
class Secrets:
    """The passwords of one stack. Its repr shows names only."""

    values: Mapping[str, str] = field(repr=False)

    def __getitem__(self, name: str) -> str:
        return self.values[name]


def load(path: Path, *, may_generate: bool) -> Secrets:
    """The secrets in `path`; those that are missing are generated and added where `may_generate` says that no data
    was made with them yet. Lines that are not ours are kept.

    Raises SecretsError if the file cannot be read or written, or lacks a secret that data were made with.
    """
    try:
        text = path.read_text() if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SecretsError(f"{path} cannot be read: {error}", remedy="correct its permissions or its content") from None
    found = {
        name: value
        for name, value in dotenv_values(stream=io.StringIO(text), interpolate=False).items()
        if name in PURPOSES and value
    }
    missing = [name for name in PURPOSES if name not in found]
    if missing and not may_generate:
        raise SecretsError(
            f"{path} lacks {', '.join(missing)}, but the data were made with it",
            remedy="restore it from your backup (it is kept nowhere else), or start anew: `shopfds down --volumes`",
        )
    if missing:
        new = {name: random_source.token_urlsafe(24) for name in missing}
        lines = (
            [text.rstrip("\n")]
            if text.strip()
            else ["# Made by shopfds. Keep it: the data cannot be opened without it."]
        )
        lines += [f"# {PURPOSES[name]}\n{name}={value}" for name, value in new.items()]
        try:
            write_atomically(path, ("\n".join(lines) + "\n").encode(), mode=0o600)
        except OSError as error:
            raise SecretsError(
                f"{path} cannot be written: {error}", remedy="make the project folder writable"
            ) from None
        found |= new
    return Secrets({name: found[name] for name in PURPOSES})


def present(path: Path) -> frozenset[str]:
    """The names of our secrets that the file holds; no values."""
    try:
        values = dotenv_values(path, interpolate=False) if path.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise SecretsError(f"{path} cannot be read: {error}", remedy="correct its permissions or its content") from None
    return frozenset(name for name in PURPOSES if values.get(name))


def open_to_others(path: Path) -> bool:
    """Whether anyone but the owner may read the file."""
    return path.exists() and bool(path.stat().st_mode & 0o077)
