"""Figures as people read them: bytes and times with their units, and 'unknown' for what was not measured."""

from __future__ import annotations

import datetime as dt
import re

from shopfds_ops.errors import UsageError

UNKNOWN = "unknown"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def bytes_text(count: int | None) -> str:
    """1536 -> '1.5 KiB'."""
    if count is None:
        return UNKNOWN
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def seconds_text(seconds: float | None) -> str:
    """0.04 -> '0.0 s'."""
    return UNKNOWN if seconds is None else f"{seconds:.1f} s"


def uptime_text(since: dt.datetime | None, now: dt.datetime) -> str:
    """The two largest units of the time since then: '3d 4h', '5m 12s'."""
    if since is None:
        return "-"
    left = max(0, int((now - since).total_seconds()))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size}{unit}")
            left %= size
    return " ".join(parts[:2])


def parse_since(text: str, now: dt.datetime) -> dt.datetime:
    """A moment in the past: a duration ('10m', '2h', '1d') or an ISO 8601 time (UTC where it names no zone)."""
    if match := re.fullmatch(r"(\d+)([smhd])", text.strip()):
        try:
            return now - dt.timedelta(seconds=int(match[1]) * _UNITS[match[2]])
        except (OverflowError, ValueError):
            raise UsageError(f"'{text}' is too long ago") from None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"'{text}' is neither a duration nor a time", remedy="examples: 10m, 2h, 1d, 2026-11-23T14:00"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
