"""A worker's own copy of the blacklist, in memory: answers about all values of an order at once, asking nobody.

Addresses and ranges lie in one table per IP version and prefix length. All that an address lies in is found by one
look per length in use, at most 32 for IPv4: as many steps as down a prefix tree, each of them quicker. (The prefix
trees for Python have no wheels: they would ask for a compiler on every machine.)

What is kept of an entry is a plain tuple: the garbage collector stops following tuples of numbers and texts, so that a
hundred thousand entries do not lengthen its pauses.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Iterator, Sequence

from services.fds.blacklist.entries import BIN_LENGTHS, Entry, Kind, Target
from services.fds.blacklist.keys import from_unix_ms, unix_ms
from services.fds.blacklist.verdict import Hit

_Kept = tuple[int | None, int, str, str]
"""End (Unix ms, None: permanent), creation (Unix ms), by whom, reason."""


class Snapshot:
    """The entries as of one moment, changed by `put` and `remove`. Not for several threads at once."""

    def __init__(self) -> None:
        self._exact: dict[Kind, dict[str, _Kept]] = {kind: {} for kind in Kind if kind is not Kind.ip}
        self._ranges: dict[int, dict[int, dict[int, _Kept]]] = {32: {}, 128: {}}
        """By bits of the address, then prefix length (longest first), then the network's leading bits."""

    def __len__(self) -> int:
        ranges = [table for lengths in self._ranges.values() for table in lengths.values()]
        return sum(map(len, self._exact.values())) + sum(map(len, ranges))

    def put(self, entry: Entry) -> None:
        """List what `entry` says, in place of what was listed for the same value."""
        kept = (
            unix_ms(entry.expires_at),
            unix_ms(entry.created_at) or 0,
            sys.intern(entry.created_by),  # the same few for many entries
            sys.intern(entry.reason),
        )
        kind, value = entry.target.kind, entry.target.value
        if kind is not Kind.ip:
            self._exact[kind][value] = kept
            return
        number, bits, length = _network(value)
        lengths = self._ranges[bits]
        if length not in lengths:
            lengths[length] = {}
            self._ranges[bits] = dict(sorted(lengths.items(), reverse=True))
        self._ranges[bits][length][number >> (bits - length)] = kept

    def remove(self, target: Target) -> None:
        """List it no longer; nothing happens if it was not listed."""
        kind, value = target.kind, target.value
        if kind is not Kind.ip:
            self._exact[kind].pop(value, None)
            return
        number, bits, length = _network(value)
        table = self._ranges[bits].get(length, {})
        table.pop(number >> (bits - length), None)
        if not table:
            self._ranges[bits].pop(length, None)

    def hits(self, targets: Sequence[Target], now: int) -> tuple[Hit, ...]:
        """The entries that list any of `targets` at `now` (Unix ms): in the order of `targets`, narrowest first."""
        return tuple(
            Hit(target, _entry(listed, kept))
            for target in targets
            for listed, kept in self._found(target)
            if kept[0] is None or kept[0] > now
        )

    def _found(self, target: Target) -> Iterator[tuple[Target, _Kept]]:
        """What lists `target`, over or not. It builds on what `Target.parse` made: nothing is checked again."""
        kind, value = target.kind, target.value
        if kind is Kind.ip:
            yield from self._found_ranges(value)
            return
        exact = self._exact[kind]
        if (kept := exact.get(value)) is not None:
            yield target, kept
        if kind is Kind.card_bin:
            for length in range(len(value) - 1, BIN_LENGTHS[0] - 1, -1):
                if (kept := exact.get(value[:length])) is not None:
                    yield Target(kind, value[:length]), kept
        elif kind is Kind.email or kind is Kind.email_domain:
            domains = self._exact[Kind.email_domain]
            _, _, domain = value.partition("@" if kind is Kind.email else ".")
            while "." in domain:  # a top-level domain cannot be listed
                if (kept := domains.get(domain)) is not None:
                    yield Target(Kind.email_domain, domain), kept
                _, _, domain = domain.partition(".")

    def _found_ranges(self, value: str) -> Iterator[tuple[Target, _Kept]]:
        number, bits, own = _network(value)
        for length, table in self._ranges[bits].items():
            if length <= own and (kept := table.get(number >> (bits - length))) is not None:
                make = ipaddress.IPv4Address if bits == 32 else ipaddress.IPv6Address
                first = make(number >> (bits - length) << (bits - length))
                yield Target(Kind.ip, f"{first}/{length}" if length < bits else str(first)), kept


def _entry(target: Target, kept: _Kept) -> Entry:
    expires, created, by, reason = kept
    return Entry(
        target=target,
        reason=reason,
        created_by=by,
        created_at=from_unix_ms(created),
        expires_at=None if expires is None else from_unix_ms(expires),
    )


def _network(value: str) -> tuple[int, int, int]:
    """A canonical address or range as number, bits of the address, and prefix length.

    Several times as fast as `ipaddress`, which has seen the value before.
    """
    address, _, length = value.partition("/")
    family, bits = (socket.AF_INET6, 128) if ":" in address else (socket.AF_INET, 32)
    return int.from_bytes(socket.inet_pton(family, address), "big"), bits, int(length or bits)
