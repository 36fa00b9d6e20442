"""The layout of the blacklist in Redis Cluster: which key holds an entry, which answer a question, what values say.

Entries are spread over BUCKETS hash tags by their own name, and the tags lie evenly over the 16384 slots, so every
master holds its share and resharding moves whole buckets:

    bl:{TAG}:KIND:VALUE   one entry, JSON; Redis expires it at `x` (Unix ms), and readers judge `x` themselves as well
    bl:{TAG}:ready        that the bucket is complete, and which prefix lengths of ranges exist: `4:24,16;6:64`

A question about a whole order asks each bucket it touches with one MGET of the marker and its keys, all nodes at once:
one round trip, which also brings the prefix lengths in use. A missing marker means that the bucket was lost (a flushed
or wiped node): its misses prove nothing, and the record in PostgreSQL answers. One hash tag for everything would be
slightly faster, but would put all load and all memory on one master; a tag per entry could not be asked for its
completeness, and costs a command per key. With 12 buckets the usual order of ten keys takes about seven commands.
"""

from __future__ import annotations

import binascii
import datetime as dt
import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from services.fds.blacklist.entries import BIN_LENGTHS, Address, Entry, Kind, Target

SLOTS = 16384
BUCKETS = 12
PREFIX = "bl:"
PATTERN = f"{PREFIX}*"
READY = "ready"


def slot_of(tag: str) -> int:
    """The cluster slot of a hash tag: CRC16 (XMODEM) modulo 16384, as the Redis Cluster specification says."""
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS


def _even_tags() -> tuple[str, ...]:
    """The smallest numbers that lie in one twelfth of the slots each."""
    tags: dict[int, str] = {}
    number = 0
    while len(tags) < BUCKETS:
        tags.setdefault(slot_of(str(number)) * BUCKETS // SLOTS, str(number))
        number += 1
    return tuple(tags[bucket] for bucket in range(BUCKETS))


TAGS = _even_tags()
BUCKET_SLOTS = tuple(slot_of(tag) for tag in TAGS)
MARKERS = tuple(f"{PREFIX}{{{tag}}}:{READY}" for tag in TAGS)


def bucket_of(kind: str, value: str) -> int:
    """The bucket of an entry: stable over processes and machines."""
    return binascii.crc32(f"{kind}:{value}".encode()) % BUCKETS


def key_of(target: Target) -> str:
    """The Redis key of an entry."""
    return f"{PREFIX}{{{TAGS[bucket_of(target.kind, target.value)]}}}:{target.kind}:{target.value}"


def target_of(key: str) -> Target | None:
    """What an entry's key lists; None for a marker, or a key that is not ours."""
    _, _, rest = key.partition("}:")
    kind, separator, value = rest.partition(":")
    if not separator or kind not in Kind.__members__:
        return None
    return Target(Kind(kind), value)


@dataclass(frozen=True, slots=True)
class Lengths:
    """The prefix lengths of the ranges that are listed, longest first."""

    v4: tuple[int, ...] = ()
    v6: tuple[int, ...] = ()

    @classmethod
    def of(cls, targets: Iterable[Target]) -> Self:
        """The lengths among `targets`."""
        found: dict[int, set[int]] = {4: set(), 6: set()}
        for target in targets:
            if target.kind is Kind.ip and "/" in target.value:
                found[6 if ":" in target.value else 4].add(int(target.value.rpartition("/")[2]))
        return cls(tuple(sorted(found[4], reverse=True)), tuple(sorted(found[6], reverse=True)))

    @classmethod
    def every(cls) -> Self:
        """All lengths there can be: for a question to the record, which knows no lengths."""
        return cls(tuple(range(31, 0, -1)), tuple(range(127, 0, -1)))

    @staticmethod
    @lru_cache(maxsize=64)
    def parse(text: str) -> Lengths:
        """What a marker says."""
        v4, v6 = (part[2:] for part in text.split(";"))
        return Lengths(*(tuple(int(length) for length in part.split(",") if length) for part in (v4, v6)))

    def __str__(self) -> str:
        return f"4:{','.join(map(str, self.v4))};6:{','.join(map(str, self.v6))}"

    def __or__(self, other: Lengths) -> Lengths:
        return Lengths(
            tuple(sorted({*self.v4, *other.v4}, reverse=True)), tuple(sorted({*self.v6, *other.v6}, reverse=True))
        )

    def covers(self, other: Lengths) -> bool:
        """Whether every length of `other` is among these."""
        return set(other.v4) <= set(self.v4) and set(other.v6) <= set(self.v6)


def questions(target: Target, lengths: Lengths) -> list[Target]:
    """The entries any of which would list `target`: itself, and the ranges, shorter BINs or domains it lies in."""
    kind, value = target.kind, target.value
    asked = [target]
    if kind is Kind.ip:
        asked += [Target(kind, parent) for parent in _ranges(value, lengths)]
    elif kind is Kind.card_bin:
        asked += [Target(kind, value[:length]) for length in BIN_LENGTHS if length < len(value)]
    elif kind is Kind.email:
        domain = value.rpartition("@")[2]
        asked += [Target(Kind.email_domain, parent) for parent in (domain, *_parents(domain))]
    elif kind is Kind.email_domain:
        asked += [Target(kind, parent) for parent in _parents(value)]
    return asked


def _ranges(value: str, lengths: Lengths) -> list[str]:
    text, _, prefix = value.partition("/")
    address: Address = ipaddress.ip_address(text)
    bits = address.max_prefixlen
    own = int(prefix) if prefix else bits
    number = int(address)
    make = ipaddress.IPv4Address if address.version == 4 else ipaddress.IPv6Address
    return [
        f"{make(number >> (bits - length) << (bits - length))}/{length}"
        for length in (lengths.v4 if address.version == 4 else lengths.v6)
        if length < own
    ]


def _parents(domain: str) -> list[str]:
    labels = domain.split(".")
    return [".".join(labels[start:]) for start in range(1, len(labels) - 1)]


def encode(entry: Entry) -> str:
    """The value of an entry's key: the same text for the same entry."""
    return json.dumps(
        {"x": unix_ms(entry.expires_at), "c": unix_ms(entry.created_at), "b": entry.created_by, "r": entry.reason},
        separators=(",", ":"),
    )


def decode(target: Target, value: bytes) -> Entry:
    """The entry that a key's value says."""
    said = json.loads(value)
    expires = said["x"]
    return Entry(
        target=target,
        reason=said["r"],
        created_by=said["b"],
        created_at=from_unix_ms(said["c"]),
        expires_at=None if expires is None else from_unix_ms(expires),
    )


def unix_ms(moment: dt.datetime | None) -> int | None:
    """Milliseconds since 1970 UTC, rounded down; None stays None."""
    if moment is None:
        return None
    return (moment - _EPOCH) // dt.timedelta(milliseconds=1)


def from_unix_ms(milliseconds: int) -> dt.datetime:
    """The moment, UTC."""
    return _EPOCH + dt.timedelta(milliseconds=milliseconds)


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
