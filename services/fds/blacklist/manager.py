"""The door to the blacklist: add, check, remove, list, import entries, change their life, and keep the copy right."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from services.common.cache import Endpoint, cluster_client
from services.fds.blacklist.cluster_copy import WRITE_SECONDS, ClusterCopy
from services.fds.blacklist.entries import Entry, Kind, Order, Proposal, Target, parse_actor, parse_reason
from services.fds.blacklist.errors import CopyUnavailableError, NotListedError, UnavailableError
from services.fds.blacklist.follower import Follower
from services.fds.blacklist.keys import MARKERS, Lengths
from services.fds.blacklist.lookup import Lookup
from services.fds.blacklist.rebuild import BULK_SECONDS, Notify, Rebuilt, command_of, marker_commands, rebuild
from services.fds.blacklist.record import Action, Change, Changing, Page, Record, Revision
from services.fds.blacklist.verdict import Verdict
from services.fds.blacklist.workers import Enforcement, Worker, wait_until_enforced, workers

CHUNK = 10_000
"""Entries that one statement of an import writes."""

Copied = Literal["replicated", "unreplicated", "pending"]
"""replicated: the copy has the change, and a replica of it too; unreplicated: no replica confirmed; pending: the copy
could not be written. In the latter two the change is safe in the record, and is applied (again) by the next change or
by `settle` or `rebuild`."""

_UNREPLICATED = "no replica confirmed the change: should its master die now, the copy loses it"


@dataclass(frozen=True, slots=True)
class Changed:
    """What was changed, and whether the copy has it. `problem` says why it has not; `sequence` is the number of the
    record's last change then, for `wait_until_enforced`."""

    changes: tuple[Change, ...]
    copied: Copied
    sequence: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did: how many entries of each action, and whether the copy has them. The rest as in `Changed`."""

    counts: dict[Action, int]
    copied: Copied
    sequence: int
    problem: str = ""

    @property
    def total(self) -> int:
        return sum(self.counts.values())


class BlacklistManager:
    """Changes are committed to the record first and then applied to the copy; questions go to the copy, or to the
    snapshot of a follower.

    An async context manager; safe for concurrent use within one event loop. Raises the errors of `errors`.
    """

    def __init__(self, record: Record, copy: ClusterCopy, follower: Follower | None = None) -> None:
        self._record = record
        self._copy = copy
        self._follower = follower
        self._lookup = Lookup(copy, record, follower)

    @classmethod
    def connect(
        cls, conninfo: str, endpoints: Sequence[Endpoint], username: str, password: str, *, follow: bool = False
    ) -> Self:
        """A manager on PostgreSQL (libpq conninfo of the primary) and Redis Cluster; connects on first use.

        With `follow` it is a worker's: from `async with` on it keeps a snapshot of its own, which answers.
        """
        copy = ClusterCopy(cluster_client(endpoints, username, password))
        return cls(Record(conninfo), copy, Follower(conninfo) if follow else None)

    async def __aenter__(self) -> Self:
        if self._follower is not None:
            await self._follower.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def follower(self) -> Follower | None:
        """Who keeps this process's snapshot, if anybody does."""
        return self._follower

    async def aclose(self) -> None:
        """Close all connections."""
        if self._follower is not None:
            await self._follower.__aexit__()
        await self._copy.aclose()
        await self._record.aclose()

    async def add_entry(
        self,
        kind: Kind | str,
        value: str,
        *,
        reason: str,
        actor: str,
        ttl: dt.timedelta | None = None,
        replace: bool = False,
    ) -> Changed:
        """List a value for `ttl` (None: permanently).

        If it is listed already, the longer life wins, with its reason; with `replace` the new life and reason do.
        """
        return await self.add_entries([proposal(Target.parse(kind, value), ttl, reason)], actor=actor, replace=replace)

    async def add_entries(self, proposals: Iterable[Proposal], *, actor: str, replace: bool = False) -> Changed:
        """As `add_entry` for several: all or none."""
        who, unique = parse_actor(actor), _longest(proposals)
        return await self._change(lambda changing: changing.propose(unique, who, replace=replace))

    async def import_entries(
        self,
        proposals: Iterable[Proposal],
        *,
        actor: str,
        replace: bool = False,
        notify: Notify = lambda *_: None,
    ) -> Imported:
        """As `add_entries` for very many, in one transaction; `notify` is told of `record` and `copy` progress."""
        who, unique = parse_actor(actor), _longest(proposals)
        counts: dict[Action, int] = {}
        async with self._record.changing() as changing:
            async with changing.transaction():
                for start in range(0, len(unique), CHUNK):
                    chunk = unique[start : start + CHUNK]
                    for action, count in (await changing.propose_many(chunk, who, replace=replace)).items():
                        counts[action] = counts.get(action, 0) + count
                    notify("record", start + len(chunk), len(unique))
                sequence = await changing.sequence()
            copied, problem = await self._apply(changing, notify)
        return Imported(counts, copied, sequence, problem)

    async def remove_entry(self, kind: Kind | str, value: str, *, actor: str, reason: str) -> Changed:
        """Take a value off. Raises NotListedError."""
        return await self.remove_entries([Target.parse(kind, value)], actor=actor, reason=reason)

    async def remove_entries(self, targets: Collection[Target], *, actor: str, reason: str) -> Changed:
        """As `remove_entry` for several: all or none."""
        who, why, unique = parse_actor(actor), parse_reason(reason), list(dict.fromkeys(targets))

        async def remove(changing: Changing) -> list[Change]:
            return _all_listed(unique, await changing.remove(unique, who, why))

        return await self._change(remove)

    async def set_ttl(
        self, kind: Kind | str, value: str, ttl: dt.timedelta | None, *, actor: str, reason: str
    ) -> Changed:
        """Let an entry live for `ttl` from now on (None: permanently). Raises NotListedError."""
        return await self.set_ttls([Target.parse(kind, value)], ttl, actor=actor, reason=reason)

    async def set_ttls(
        self, targets: Collection[Target], ttl: dt.timedelta | None, *, actor: str, reason: str
    ) -> Changed:
        """As `set_ttl` for several: all or none."""
        who, why, unique = parse_actor(actor), parse_reason(reason), list(dict.fromkeys(targets))

        async def set_expiry(changing: Changing) -> list[Change]:
            return _all_listed(unique, await changing.set_expiry(unique, expiry(ttl), who, why))

        return await self._change(set_expiry)

    async def check_entry(self, kind: Kind | str, value: str) -> Verdict:
        """Whether a value is listed now: itself, or by a range or domain it lies in."""
        return await self._lookup.check([Target.parse(kind, value)])

    async def check_order(self, order: Order) -> Verdict:
        """Whether any value of an order is listed now, in one round trip or none. Raises InvalidValueError."""
        return await self._lookup.check(order.targets())

    async def check_targets(self, targets: Sequence[Target], *, certain: bool = False) -> Verdict:
        """Whether any of `targets` is listed. With `certain` the record answers while the copy may lack a change; while
        the record is away, the copy does, and the verdict says so."""
        if not certain:
            return await self._lookup.check(targets)
        try:
            waiting = await self._record.waiting()
        except UnavailableError as error:
            verdict = await self._lookup.check_copy(targets)
            return replace(verdict, detour=f"the record could not be asked for newer changes: {error.what}")
        if waiting:
            return await self._lookup.check_record(targets, f"the copy may lack changes ({waiting})")
        return await self._lookup.check_copy(targets)

    async def list_entries(
        self,
        *,
        kind: Kind | None = None,
        text: str | None = None,
        expiring: dt.timedelta | None = None,
        limit: int = 50,
    ) -> Page:
        """Active entries, newest first: of one kind, with `text` in value or reason, ending within `expiring`."""
        return await self._record.page(kind=kind, text=text, expiring=expiry(expiring), limit=limit)

    async def count(self) -> int:
        """How many entries are active."""
        return await self._record.count()

    def export(self) -> AsyncIterator[Entry]:
        """Every active entry, oldest first, as of one moment."""
        return self._record.all()

    async def history(self, targets: Sequence[Target] = (), *, limit: int = 50) -> list[Revision]:
        """Changes of these targets (of all, if none is named), newest first."""
        return await self._record.history(targets, limit=limit)

    async def workers(self) -> list[Worker]:
        """Who follows the record, and how far each of them is."""
        return await workers(self._record)

    async def wait_until_enforced(self, sequence: int, seconds: float) -> Enforcement:
        """Wait until no worker decides without the change `sequence` (see `Changed`), at most for `seconds`."""
        return await wait_until_enforced(self._record, sequence, seconds)

    async def outstanding(self) -> str | None:
        """What `settle` would mend now, in words; None when the copy has everything. Changes nothing."""
        try:
            markers = await self._copy.markers()
        except CopyUnavailableError as error:
            return error.what
        if None in markers:
            return f"{markers.count(None)} of {len(markers)} parts of the copy are not known to be complete"
        waiting = await self._record.waiting()  # without the lock: a long import holds nobody up who only looks
        return f"changes are not in the copy yet ({waiting})" if waiting else None

    async def settle(self) -> tuple[Copied, str]:
        """Apply changes that the copy may lack, and restore parts of it that were lost. Cheap when there is nothing."""
        async with self._record.changing() as changing:
            return await self._apply(changing)

    async def distrust(self) -> None:
        """Nothing in the copy counts until `settle` or `rebuild`: for when the record was replaced as a whole.

        Asks nothing of the record. Raises CopyUnavailableError.
        """
        await self._copy.write((bucket, ("DEL", marker)) for bucket, marker in enumerate(MARKERS))

    async def rebuild(self, notify: Notify = lambda *_: None) -> Rebuilt:
        """Compare the whole copy with the record, and mend it. Raises UnavailableError."""
        async with self._record.changing() as changing:
            return await rebuild(self._record, changing, self._copy, notify)

    async def _change(self, change: Callable[[Changing], Awaitable[list[Change]]]) -> Changed:
        async with self._record.changing() as changing:
            async with changing.transaction():
                changes = await change(changing)
                sequence = await changing.sequence()
            copied, problem = await self._apply(changing)
        return Changed(tuple(changes), copied, sequence, problem)

    async def _apply(self, changing: Changing, notify: Notify = lambda *_: None) -> tuple[Copied, str]:
        """Bring the copy up to the record. Failing is no error: the record knows how far it came."""
        try:
            markers = await self._copy.markers()
            if None in markers:
                rebuilt = await rebuild(self._record, changing, self._copy, notify)
                return ("replicated", "") if rebuilt.replicated else ("unreplicated", _UNREPLICATED)
            unapplied = await changing.unapplied()
            known = [Lengths.parse(marker.decode()) for marker in markers if marker is not None]
            needed = Lengths.of(target for target, entry in unapplied if entry is not None)
            for lengths in known:
                needed = needed | lengths
            stale = [bucket for bucket, lengths in enumerate(known) if not lengths.covers(needed)]
            # Lengths first: a reader must look for a range by the time it is there.
            replicated = await self._copy.write(marker_commands(needed, stale))
            written = 0

            def count(done: int) -> None:
                nonlocal written
                written += done
                notify("copy", written, len(unapplied))

            commands = [command_of(target, entry) for target, entry in unapplied]
            seconds = BULK_SECONDS if len(commands) > CHUNK else WRITE_SECONDS
            replicated = await self._copy.write(commands, seconds=seconds, done=count) and replicated
        except CopyUnavailableError as error:
            return "pending", error.what
        if not replicated:
            return "unreplicated", _UNREPLICATED
        if unapplied:
            await changing.settled()
        return "replicated", ""


def proposal(target: Target, ttl: dt.timedelta | None, reason: str) -> Proposal:
    """An entry that lives for `ttl` from now on (None: permanently)."""
    return Proposal(target, parse_reason(reason), expiry(ttl))


def expiry(ttl: dt.timedelta | None) -> dt.datetime | None:
    """The moment that is `ttl` from now, UTC; None stays None."""
    return None if ttl is None else dt.datetime.now(dt.UTC) + ttl


def _longest(proposals: Iterable[Proposal]) -> list[Proposal]:
    """One proposal for each target: the one that lives longest."""
    best: dict[Target, Proposal] = {}
    for new in proposals:
        old = best.get(new.target)
        if old is None or (old.expires_at is not None and (new.expires_at is None or new.expires_at > old.expires_at)):
            best[new.target] = new
    return list(best.values())


def _all_listed(targets: Sequence[Target], changes: list[Change]) -> list[Change]:
    changed = {change.target for change in changes}
    for target in targets:
        if target not in changed:
            raise NotListedError(f"{target} is not listed", remedy="`shopfds blacklist list` shows what is")
    return changes
