"""Makes the copy in Redis Cluster equal to the record: after a total loss, after drift, on a new cluster."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from services.common.redis_wire import Command
from services.fds.blacklist.cluster_copy import ClusterCopy
from services.fds.blacklist.entries import Entry, Target
from services.fds.blacklist.errors import CopyUnavailableError
from services.fds.blacklist.keys import MARKERS, Lengths, bucket_of, encode, key_of, target_of, unix_ms
from services.fds.blacklist.record import Changing, Record

Notify = Callable[[str, int, int], None]
"""Told what is being done (`compare`, `restore`), how much of it is done, and the total."""

BULK_SECONDS = 30.0
EXPIRY_TOLERANCE_MS = 1000


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild found and mended."""

    entries: int
    """Active entries in the record, all of which are now in the copy."""
    missing: int
    """Were in the record only: restored, with the time that was left."""
    extra: int
    """Were in the copy only: deleted."""
    expiry: int
    """Had another end in the copy: corrected."""
    content: int
    """Had another reason or origin in the copy, or an unreadable value: corrected."""
    markers: int
    """Parts of the copy (of 12) that were not known to be complete, or did not know all lengths of ranges."""
    replicated: bool
    """Whether a replica of every master confirmed what was mended."""
    seconds: float

    @property
    def mended(self) -> int:
        """Everything that was not as it should be, in sum."""
        return self.missing + self.extra + self.expiry + self.content + self.markers


def command_of(target: Target, entry: Entry | None) -> tuple[int, Command]:
    """The bucket and the command that make the copy say what the record says of `target`."""
    bucket = bucket_of(target.kind, target.value)
    if entry is None:
        return bucket, ("DEL", key_of(target))
    expires = unix_ms(entry.expires_at)
    if expires is None:
        return bucket, ("SET", key_of(target), encode(entry))
    return bucket, ("SET", key_of(target), encode(entry), "PXAT", expires)


def marker_commands(lengths: Lengths, buckets: Iterable[int]) -> list[tuple[int, Command]]:
    """The commands that declare these buckets complete."""
    return [(bucket, ("SET", MARKERS[bucket], str(lengths))) for bucket in buckets]


async def rebuild(record: Record, changing: Changing, copy: ClusterCopy, notify: Notify) -> Rebuilt:
    """Compare every key with the record and mend what differs. `changing` shows that the caller holds the lock.

    Markers are written last: until then, whoever reads a lost part is sent to the record. Raises UnavailableError.
    """
    started = time.monotonic()
    async with changing.transaction():
        pass  # sweeps what is over
    wanted = {entry.target: entry async for entry in record.all()}
    lengths = Lengths.of(wanted)
    missing = dict(wanted)
    commands: list[tuple[int, Command]] = []
    extra = expiry = content = compared = 0
    async for batch in copy.scan():
        now = unix_ms(dt.datetime.now(dt.UTC)) or 0
        for key, value, left in batch:
            target = target_of(key)
            if target is None:
                continue
            entry = wanted.get(target)
            if entry is None or key != key_of(target):
                extra += 1
                commands.append((bucket_of(target.kind, target.value), ("DEL", key)))
                continue
            missing.pop(target, None)
            end = unix_ms(entry.expires_at)
            if (end is None) != (left < 0) or (end is not None and abs(now + left - end) > EXPIRY_TOLERANCE_MS):
                expiry += 1
            elif value.decode(errors="replace") != encode(entry):
                content += 1
            else:
                continue
            commands.append(command_of(target, entry))
        compared += len(batch)
        notify("compare", min(compared, len(wanted)), len(wanted))
    commands += [command_of(target, entry) for target, entry in missing.items()]
    restored = 0

    def count(done: int) -> None:
        nonlocal restored
        restored += done
        notify("restore", restored, len(commands))

    replicated = await copy.write(commands, seconds=BULK_SECONDS, done=count)
    stale = [
        bucket for bucket, said in enumerate(await _markers(copy)) if said is None or said.decode() != str(lengths)
    ]
    replicated = await copy.write(marker_commands(lengths, stale)) and replicated
    if replicated:
        await changing.settled()
    return Rebuilt(
        entries=len(wanted),
        missing=len(missing),
        extra=extra,
        expiry=expiry,
        content=content,
        markers=len(stale),
        replicated=replicated,
        seconds=time.monotonic() - started,
    )


async def _markers(copy: ClusterCopy) -> list[bytes | None]:
    """Markers as the masters have them; what cannot be read is written anew."""
    try:
        return await copy.markers()
    except CopyUnavailableError:
        return [None] * len(MARKERS)
