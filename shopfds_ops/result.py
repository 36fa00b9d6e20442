"""What a command returns: typed data, tables for people, messages, and an exit code; one place renders them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import pathlib
import uuid
from collections.abc import Mapping
from typing import Any, Literal

ENVELOPE_VERSION = 1

Level = Literal["ok", "warning", "fail", "skip", "info"]


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One line for the operator: what is so, and (where something is wrong) what to do next."""

    level: Level
    text: str
    remedy: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not healthy: where, what, and what to do next."""

    where: str
    what: str
    remedy: str


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What a check of `doctor` found."""

    check: str
    level: Level
    text: str
    remedy: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A table as plain data; every cell is text that is ready to show."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a command. `data` is what JSON shows; `tables` and `messages` are what people see."""

    command: str
    data: Any = None
    tables: tuple[Table, ...] = ()
    messages: tuple[Message, ...] = ()
    exit_code: int = 0

    def envelope(self) -> dict[str, Any]:
        """The stable JSON form."""
        return {
            "version": ENVELOPE_VERSION,
            "command": self.command,
            "ok": self.exit_code == 0,
            "exit_code": self.exit_code,
            "messages": [jsonable(message) for message in self.messages],
            "data": jsonable(self.data),
        }


def jsonable(value: Any) -> Any:
    """Plain JSON values of dataclasses, times (ISO 8601, UTC), decimals (as strings), enums, paths and addresses."""
    plain: Any = value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    elif isinstance(value, Mapping):
        plain = {str(key): jsonable(item) for key, item in value.items()}
    elif isinstance(value, list | tuple | set | frozenset):
        plain = [jsonable(item) for item in value]
    elif isinstance(value, dt.datetime):
        plain = value.astimezone(dt.UTC).isoformat()
    elif isinstance(value, enum.Enum):
        plain = value.value
    elif isinstance(value, dt.timedelta):
        plain = value.total_seconds()
    elif isinstance(
        value,
        decimal.Decimal | uuid.UUID | pathlib.PurePath | ipaddress.IPv4Address | ipaddress.IPv6Address | dt.date,
    ):
        plain = str(value)
    return plain
