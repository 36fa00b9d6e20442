"""The blacklist of a stack: the manager on its servers, its errors as the operator's, its answers as results."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from services.fds.blacklist.durations import PERMANENT, format_duration
from services.fds.blacklist.entries import Entry, Target
from services.fds.blacklist.errors import (
    BadLine,
    BlacklistError,
    InvalidListError,
    InvalidValueError,
    NotListedError,
)
from services.fds.blacklist.manager import BlacklistManager, Changed, Copied, Imported
from services.fds.blacklist.rebuild import Rebuilt
from services.fds.blacklist.record import Page, Revision
from services.fds.blacklist.verdict import Verdict
from shopfds_ops.components import postgres, redis_cluster
from shopfds_ops.components.base import Live
from shopfds_ops.errors import DataError, ShopfdsError, UsageError
from shopfds_ops.result import Message, Result, Table

T = TypeVar("T")

APPLICATION = "shopfds"
SHOWN_BAD_LINES = 20
LATER = "the record has it; `shopfds blacklist rebuild` brings the copy up to it once Redis Cluster is well"


def run(live: Live, work: Callable[[BlacklistManager], Awaitable[T]]) -> T:
    """Do `work` with a manager on the servers of a stack. Raises ShopfdsError."""

    async def managed() -> T:
        async with BlacklistManager.connect(
            postgres.conninfo(live, APPLICATION),
            redis_cluster.endpoints(live),
            APPLICATION,
            live.secrets["REDIS_APP_PASSWORD"],
        ) as manager:
            return await work(manager)

    with explained():
        return asyncio.run(managed())


@contextmanager
def explained() -> Iterator[None]:
    """Turns the errors of the blacklist into those that the CLI shows."""
    try:
        yield
    except InvalidListError as error:
        raise UsageError(error.what, remedy=error.remedy, details=bad_lines(error.bad)) from error
    except InvalidValueError as error:
        raise UsageError(error.what, remedy=error.remedy) from error
    except NotListedError as error:
        raise DataError(error.what, remedy=error.remedy) from error
    except BlacklistError as error:
        raise ShopfdsError(error.what, remedy=error.remedy) from error


def bad_lines(bad: Sequence[BadLine]) -> str:
    """The first bad lines of a list, one on a line."""
    lines = [f"    line {one.line}: {one.problem}" for one in bad[:SHOWN_BAD_LINES]]
    if len(bad) > SHOWN_BAD_LINES:
        lines.append(f"    ... and {len(bad) - SHOWN_BAD_LINES} more")
    return "\n".join(lines)


def counted(count: int, one: str, many: str) -> str:
    """`1 entry`, `2 entries`."""
    return f"{count} {one if count == 1 else many}"


def added(done: Changed, now: dt.datetime) -> Result:
    """What `add` did."""
    messages: list[Message] = []
    for change in done.changes:
        if change.after is None:
            continue
        life = _life(change.after, now)
        if change.action == "unchanged":
            text = f"{change.target} is listed {life} already: unchanged"
            messages.append(Message("skip", text, "a longer --ttl extends it, --replace sets life and reason anyway"))
        else:
            said = {"added": "is listed", "extended": "is extended:", "replaced": "is replaced:"}[change.action]
            messages.append(Message("ok", f"{change.target} {said} {life}: {change.after.reason}"))
    return _changed("blacklist add", done, messages)


def removed(done: Changed) -> Result:
    """What `remove` did."""
    messages = [Message("ok", f"{change.target} is not listed any more") for change in done.changes]
    return _changed("blacklist remove", done, messages)


def ttl_set(done: Changed, now: dt.datetime) -> Result:
    """What `ttl` did."""
    messages = [
        Message("ok", f"{change.target} is listed {_life(change.after, now)} (was: {_life(change.before, now)})")
        for change in done.changes
        if change.before is not None and change.after is not None
    ]
    return _changed("blacklist ttl", done, messages)


def checked(targets: Sequence[Target], verdict: Verdict, now: dt.datetime) -> Result:
    """The answer of `check`: exit code 1 when anything is listed."""
    rows: list[tuple[str, ...]] = []
    for target in targets:
        hits = [hit for hit in verdict.hits if hit.asked == target]
        if not hits:
            rows.append((str(target), "no", "", "", ""))
        rows += [
            (str(target), "LISTED", str(hit.entry.target), _left(hit.entry, now), hit.entry.reason) for hit in hits
        ]
    messages: list[Message] = []
    if verdict.source == "replica":
        messages.append(Message("warning", f"a replica answered: {verdict.detour}"))
    elif verdict.source == "master" and verdict.detour:
        messages.append(Message("warning", f"Redis Cluster answered: {verdict.detour}", "`shopfds status postgres`"))
    elif verdict.source == "record":
        messages.append(
            Message(
                "warning",
                f"the record in PostgreSQL answered: {verdict.detour}",
                "`shopfds blacklist rebuild` mends it",
            )
        )
    data = {
        "listed": verdict.listed,
        "source": verdict.source,
        "values": [
            {
                "type": target.kind,
                "value": target.value,
                "listed_by": [_plain(hit.entry) for hit in verdict.hits if hit.asked == target],
            }
            for target in targets
        ],
    }
    table = Table("", ("Value", "Listed", "By", "Left", "Reason"), tuple(rows))
    return Result("blacklist check", data, (table,), tuple(messages), 1 if verdict.listed else 0)


def listed(page: Page, now: dt.datetime) -> Result:
    """The answer of `list`."""
    rows = tuple(
        (
            entry.target.kind.value,
            entry.target.value,
            _left(entry, now),
            format_duration(now - entry.created_at),
            entry.reason,
        )
        for entry in page.entries
    )
    shown = len(page.entries)
    caption = (
        f"{shown} of {page.total} entries (--limit shows more)"
        if shown < page.total
        else counted(shown, "entry", "entries")
    )
    table = Table("", ("Type", "Value", "Left", "Age", "Reason"), rows, caption)
    data = {"total": page.total, "entries": [_plain(entry) for entry in page.entries]}
    return Result("blacklist list", data, (table,))


def told(revisions: Sequence[Revision]) -> Result:
    """The answer of `history`."""
    rows = tuple(
        (
            f"{one.at:%Y-%m-%d %H:%M:%S}",
            one.action,
            str(one.target),
            one.actor,
            one.reason,
            f"{_end(one.before)} -> {_end(one.after)}",
        )
        for one in revisions
    )
    table = Table(
        "", ("At (UTC)", "Action", "Entry", "By", "Why", "Until"), rows, counted(len(rows), "change", "changes")
    )
    data = [
        {
            "at": one.at,
            "action": one.action,
            "type": one.target.kind,
            "value": one.target.value,
            "actor": one.actor,
            "reason": one.reason,
            "before": one.before,
            "after": one.after,
        }
        for one in revisions
    ]
    return Result("blacklist history", data, (table,))


def imported(done: Imported, bad: Sequence[BadLine], expired: int) -> Result:
    """What `import` did."""
    counts = ", ".join(f"{count} {action}" for action, count in sorted(done.counts.items()))
    messages = [Message("ok", f"{counted(done.total, 'entry', 'entries')}: {counts or 'nothing to do'}")]
    if expired:
        messages.append(Message("skip", f"{counted(expired, 'entry', 'entries')} whose time is over already"))
    if bad:
        messages.append(
            Message("warning", f"{counted(len(bad), 'bad line', 'bad lines')} skipped", bad_lines(bad).strip())
        )
    data = {
        "counts": done.counts,
        "expired": expired,
        "skipped": [{"line": one.line, "problem": one.problem} for one in bad],
        "copied": done.copied,
    }
    return Result("blacklist import", data, (), (*messages, *_copied(done.copied, done.problem)))


def rebuilt(done: Rebuilt) -> Result:
    """What `rebuild` mended."""
    found = (
        (done.missing, "missing restored"),
        (done.extra, "extra deleted"),
        (done.expiry, "wrong ends corrected"),
        (done.content, "wrong contents corrected"),
        (done.markers, "parts of 12 declared complete"),
    )
    said = ", ".join(f"{count} {what}" for count, what in found if count) or "nothing to mend"
    messages = [
        Message(
            "ok", f"record and copy hold {counted(done.entries, 'entry', 'entries')} ({done.seconds:.1f} s): {said}"
        )
    ]
    if not done.replicated:
        messages.append(Message("warning", "no replica confirmed it", "run it again once `shopfds status` is well"))
    return Result("blacklist rebuild", done, (), tuple(messages))


def _changed(command: str, done: Changed, messages: Sequence[Message]) -> Result:
    data = {
        "copied": done.copied,
        "changes": [
            {
                "type": change.target.kind,
                "value": change.target.value,
                "action": change.action,
                "before": None if change.before is None else _plain(change.before),
                "after": None if change.after is None else _plain(change.after),
            }
            for change in done.changes
        ],
    }
    return Result(command, data, (), (*messages, *_copied(done.copied, done.problem)))


def _copied(copied: Copied, problem: str) -> list[Message]:
    if copied == "replicated":
        return []
    state = "not in the fast copy yet" if copied == "pending" else "in the fast copy, but not safe there"
    return [Message("warning", f"{state}: {problem}", LATER)]


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        "type": entry.target.kind,
        "value": entry.target.value,
        "reason": entry.reason,
        "expires_at": entry.expires_at,
        "created_by": entry.created_by,
        "created_at": entry.created_at,
    }


def _left(entry: Entry, now: dt.datetime) -> str:
    return format_duration(entry.left(now))


def _life(entry: Entry, now: dt.datetime) -> str:
    if entry.expires_at is None:
        return PERMANENT + "ly"
    return f"until {entry.expires_at:%Y-%m-%d %H:%M} UTC ({_left(entry, now)})"


def _end(columns: Any) -> str:
    if columns is None:
        return "-"
    return str(columns["expires_at"] or PERMANENT)[:16].replace("T", " ")
