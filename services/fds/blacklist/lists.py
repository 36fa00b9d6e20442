"""Lists of entries as files: CSV, JSON and plain text read with the number of every bad line; CSV and JSON written."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from services.fds.blacklist.durations import PERMANENT, parse_duration
from services.fds.blacklist.entries import Entry, Kind, Proposal, Target, guess_kind, parse_kind, parse_reason
from services.fds.blacklist.errors import BadLine, InvalidListError, InvalidValueError

COLUMNS = ("type", "value", "reason", "expires_at", "created_by", "created_at")
"""What an export has. An import takes the first four, `ttl` instead of `expires_at`, and ignores the last two: whoever
imports is the one who lists."""
READABLE = (*COLUMNS, "ttl")
EXPORT_VERSION = 1


class ListFormat(StrEnum):
    """How a list is written."""

    csv = "csv"
    json = "json"
    plain = "plain"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for lines that do not say it themselves. `kind` None: seen from the value; `ttl` None: permanent."""

    reason: str
    kind: Kind | None = None
    ttl: dt.timedelta | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a list says. `expired` lines are well written, but their time is over already."""

    proposals: tuple[Proposal, ...]
    bad: tuple[BadLine, ...]
    expired: int


def decode(content: bytes, name: str) -> str:
    """The text of a file. Raises InvalidListError."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InvalidListError(f"{name} is not UTF-8 text (line {line})", remedy="convert it to UTF-8") from None


def detect(text: str, name: str) -> ListFormat:
    """The format by the file's extension, or else by what it starts with."""
    extension = name.rpartition(".")[2].lower()
    if extension in ("csv", "json"):
        return ListFormat(extension)
    start = text.lstrip()[:4096]
    if start.startswith(("[", "{")):
        return ListFormat.json
    header = {cell.strip().strip('"').lower() for cell in start.partition("\n")[0].split(",")}
    return ListFormat.csv if "value" in header else ListFormat.plain


def read(text: str, format: ListFormat, defaults: Defaults, now: dt.datetime) -> Reading:
    """Every line of a list. Raises InvalidListError only where it cannot be read as lines at all."""
    rows = {ListFormat.csv: _csv_rows, ListFormat.json: _json_rows, ListFormat.plain: _plain_rows}[format](text)
    proposals: list[Proposal] = []
    bad: list[BadLine] = []
    expired = 0
    for line, row in rows:
        try:
            if isinstance(row, str):
                raise InvalidValueError(row)
            entry = _proposal(row, defaults, now)
        except InvalidValueError as error:
            bad.append(BadLine(line, f"{error.what}; {error.remedy}" if error.remedy else error.what))
            continue
        if entry.expires_at is not None and entry.expires_at <= now:
            expired += 1
        else:
            proposals.append(entry)
    return Reading(tuple(proposals), tuple(bad), expired)


def write_csv(entries: Iterable[Entry]) -> Iterator[str]:
    """The lines of a CSV that `read` takes, header first."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for entry in entries:
        cells = _cells(entry)
        writer.writerow([cells[name] if cells[name] is not None else PERMANENT for name in COLUMNS])
        yield _taken(buffer)
    yield _taken(buffer)


def write_json(entries: Iterable[Entry]) -> Iterator[str]:
    """The lines of a JSON document that `read` takes."""
    yield f'{{"version": {EXPORT_VERSION}, "entries": ['
    separator = "\n"
    for entry in entries:
        yield f"{separator}  {json.dumps(_cells(entry))}"
        separator = ",\n"
    yield "\n]}\n"


def _taken(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text


def _cells(entry: Entry) -> dict[str, str | None]:
    return {
        "type": entry.target.kind.value,
        "value": entry.target.value,
        "reason": entry.reason,
        "expires_at": None if entry.expires_at is None else entry.expires_at.isoformat(),
        "created_by": entry.created_by,
        "created_at": entry.created_at.isoformat(),
    }


def _proposal(row: Mapping[str, Any], defaults: Defaults, now: dt.datetime) -> Proposal:
    for name, cell in row.items():
        if name not in READABLE:
            raise InvalidValueError(f"there is no field '{name}'", remedy=f"fields: {', '.join(READABLE)}")
        if cell is not None and not isinstance(cell, str):
            raise InvalidValueError(f"the field '{name}' is not a text")
    value = (row.get("value") or "").strip()
    if not value:
        raise InvalidValueError("there is no value")
    kind = parse_kind(row["type"]) if row.get("type") else defaults.kind or guess_kind(value)
    return Proposal(
        Target.parse(kind, value), parse_reason(row.get("reason") or defaults.reason), _end(row, defaults, now)
    )


def _end(row: Mapping[str, Any], defaults: Defaults, now: dt.datetime) -> dt.datetime | None:
    ttl, end = row.get("ttl"), row.get("expires_at")
    if ttl and end:
        raise InvalidValueError("both ttl and expires_at are given", remedy="leave out one")
    if end:
        return None if end.strip().lower() == PERMANENT else _moment(end)
    if "expires_at" in row and end is None:
        return None  # JSON's null
    life = parse_duration(ttl) if ttl else defaults.ttl
    return None if life is None else now + life


def _moment(text: str) -> dt.datetime:
    remedy = "write it like 2026-12-24T18:00:00+00:00, or permanent"
    try:
        moment = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidValueError(f"'{text}' is not a time", remedy=remedy) from None
    if moment.tzinfo is None:
        raise InvalidValueError(f"'{text}' names no time zone", remedy=remedy)
    try:
        return moment.astimezone(dt.UTC)
    except OverflowError:
        raise InvalidValueError(f"'{text}' is out of range", remedy=remedy) from None


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The rows below the header, each with the line it starts on; a text instead of a row says why it is none."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
    except csv.Error as error:
        raise InvalidListError(f"line 1 is not CSV: {error}") from None
    unknown = [name for name in header if name not in READABLE]
    if "value" not in header or unknown or len(set(header)) < len(header):
        said = f"has the unknown column '{unknown[0]}'" if unknown else "must name 'value', and nothing twice"
        raise InvalidListError(f"the CSV header {said}", remedy=f"columns: {', '.join(READABLE)}")
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, f"it is not CSV: {error}"
            continue
        if not cells:
            continue
        if len(cells) != len(header):
            yield line, f"it has {len(cells)} cells, the header {len(header)}"
            continue
        yield line, {name: cell for name, cell in zip(header, cells, strict=True) if cell.strip()}


def _json_rows(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidListError(f"it is not JSON{line}") from None
    items = document.get("entries") if isinstance(document, dict) else document
    if not isinstance(items, list):
        raise InvalidListError("the JSON is neither a list nor an export", remedy='write [{"type": ..., "value": ...}]')
    for number, item in enumerate(items, 1):
        if isinstance(item, dict):
            yield number, item
        elif isinstance(item, str):
            yield number, {"value": item}
        else:
            yield number, "it is neither an object nor a text"


def _plain_rows(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """One value a line; `#` at the start of a word begins a comment."""
    for number, raw in enumerate(text.splitlines(), 1):
        value = "" if raw.lstrip().startswith("#") else raw.partition(" #")[0].strip()
        if "," in value:
            yield number, f"'{value}' has a comma: a CSV starts with a header, such as type,value,reason"
        elif value:
            yield number, {"value": value}
