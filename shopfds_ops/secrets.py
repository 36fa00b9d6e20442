"""Secrets: generated once, kept in `.env` (0600), never printed, never overwritten."""

from __future__ import annotations

import io
import secrets as random_source
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values

from shopfds_ops.errors import SecretsError
from shopfds_ops.files import write_atomically

HEADER = "# Made by shopfds. Keep it: the data cannot be opened without it."

# A name begins with the component (postgres, redis, rabbitmq) whose data are made with it.
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


def load(path: Path, *, needed_by: Collection[str]) -> Secrets:
    """The secrets in `path`; those that are missing are generated and added. Lines that are not ours are kept.

    `needed_by`: the servers (postgres, redis, rabbitmq) that have data already; their secrets cannot be made anew.
    Raises SecretsError if one of those is missing, or if the file cannot be read or written.
    """
    text = _text(path)
    found = _ours(text)
    missing = [name for name in PURPOSES if name not in found]
    lost = [name for name in missing if name.split("_")[0].lower() in needed_by]
    if lost:
        what = f"lacks {', '.join(lost)}" if path.exists() else "is missing"
        raise SecretsError(
            f"{path} {what}, but the data were made with it",
            remedy="restore it from your backup (it is kept nowhere else), or start anew: `shopfds down --volumes`",
        )
    if missing:
        new = {name: random_source.token_urlsafe(24) for name in missing}
        lines = [text.rstrip("\n")] if text.strip() else [HEADER]
        lines += [f"# {PURPOSES[name]}\n{name}={value}" for name, value in new.items()]
        try:
            write_atomically(path, ("\n".join(lines) + "\n").encode(), mode=0o600)
        except OSError as error:
            raise SecretsError(
                f"{path} cannot be written: {error}", remedy="make the project folder writable"
            ) from None
        found |= new
    return Secrets({name: found[name] for name in PURPOSES})


def read(path: Path) -> Secrets:
    """The secrets in `path` as they are; generates nothing. Raises SecretsError if one is missing."""
    found = _ours(_text(path))
    missing = [name for name in PURPOSES if name not in found]
    if missing:
        raise SecretsError(
            f"{path} lacks {', '.join(missing)}",
            remedy="restore it from your backup; `shopfds up` makes those that no data need yet",
        )
    return Secrets(found)


def forget(path: Path) -> None:
    """Take our secrets out of the file; it stays if anything else is in it."""
    ours = (*(f"{name}=" for name in PURPOSES), *(f"# {purpose}" for purpose in PURPOSES.values()), HEADER)
    kept = [line for line in _text(path).splitlines(keepends=True) if not line.startswith(ours)]
    if any(line.strip() for line in kept):
        write_atomically(path, "".join(kept).encode(), mode=0o600)
    else:
        path.unlink(missing_ok=True)


def present(path: Path) -> frozenset[str]:
    """The names of our secrets that the file holds; no values."""
    return frozenset(_ours(_text(path)))


def open_to_others(path: Path) -> bool:
    """Whether anyone but the owner may read the file."""
    return path.exists() and bool(path.stat().st_mode & 0o077)


def _text(path: Path) -> str:
    try:
        return path.read_text() if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SecretsError(f"{path} cannot be read: {error}", remedy="correct its permissions or its content") from None


def _ours(text: str) -> dict[str, str]:
    values = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return {name: value for name in PURPOSES if (value := values.get(name))}
