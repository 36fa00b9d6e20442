"""How long an entry lives: `7d`, `4h`, `1d12h`, `permanent`."""

from __future__ import annotations

import datetime as dt
import re

from services.fds.blacklist.errors import InvalidValueError

PERMANENT = "permanent"
LONGEST = dt.timedelta(days=36500)

_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_PART = re.compile(r"([0-9]{1,12})([wdhms])")
_WHOLE = re.compile(r"(?:[0-9]{1,12}[wdhms])+")
_REMEDY = "write it like 7d, 4h, 90m, 1d12h, or permanent"


def parse_duration(text: str) -> dt.timedelta | None:
    """The duration that `text` says; None for `permanent`. Raises InvalidValueError."""
    plain = text.strip().lower()
    if plain == PERMANENT:
        return None
    if not _WHOLE.fullmatch(plain):
        raise InvalidValueError(f"'{text}' is not a duration", remedy=_REMEDY)
    seconds = sum(int(count) * _UNITS[unit] for count, unit in _PART.findall(plain))
    if seconds == 0:
        raise InvalidValueError(f"the duration '{text}' is zero", remedy=_REMEDY)
    if seconds > LONGEST.total_seconds():
        raise InvalidValueError(f"the duration '{text}' is over {LONGEST.days} days", remedy="use permanent")
    return dt.timedelta(seconds=seconds)


def format_duration(duration: dt.timedelta | None) -> str:
    """The two largest units of a duration (`6d23h`), or `permanent`; rounded down to the second."""
    if duration is None:
        return PERMANENT
    left = max(0, int(duration.total_seconds()))
    parts: list[str] = []
    for unit, size in list(_UNITS.items())[1:]:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"
