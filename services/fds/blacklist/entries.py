"""What can be on the blacklist: kinds of values, the canonical form of each, entries, and the values of an order."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from services.fds.blacklist.errors import InvalidValueError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

BIN_LENGTHS = (6, 7, 8)
LONGEST_REASON = 500
LONGEST_ACTOR = 128

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_LOCAL = re.compile(r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}")
_IDENTIFIER = re.compile(r"[!-~]{1,128}")
_DOMAIN_REMEDY = "write it like mail.example.com; its subdomains are covered by it"


class Kind(StrEnum):
    """What kind of value an entry lists."""

    ip = "ip"
    card_bin = "card_bin"
    email_domain = "email_domain"
    email = "email"
    user = "user"
    device = "device"


@dataclass(frozen=True, slots=True)
class Target:
    """A value in its canonical form: what an entry lists, or what is asked about. Made by `parse`.

    ip: an address (`203.0.113.7`, `2001:db8::1`) or a range (`203.0.113.0/24`); card_bin: 6 to 8 digits;
    email_domain: lower case, IDNA; email: lower case, the domain as above; user, device: as given.
    """

    kind: Kind
    value: str

    @classmethod
    def parse(cls, kind: Kind | str, text: str) -> Self:
        """The canonical form of `text`. Raises InvalidValueError, which names the value and what is right."""
        known = parse_kind(kind)
        return cls(known, _PARSERS[known](text.strip()))

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One listed value. Times are UTC; `expires_at` None means permanent."""

    target: Target
    reason: str
    created_by: str
    created_at: dt.datetime
    expires_at: dt.datetime | None = None

    def active(self, now: dt.datetime) -> bool:
        """Whether the entry is enforced at `now`."""
        return self.expires_at is None or self.expires_at > now

    def left(self, now: dt.datetime) -> dt.timedelta | None:
        """The time it still has; None if permanent."""
        return None if self.expires_at is None else self.expires_at - now


@dataclass(frozen=True, slots=True)
class Proposal:
    """An entry that somebody wants to have listed until `expires_at` (UTC; None: permanently)."""

    target: Target
    reason: str
    expires_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The values of one order that the blacklist knows kinds of. Raw text; what the order lacks is None.

    The domain of `email` is asked about too; `email_domain` is for orders that carry only a domain.
    """

    ip: str | None = None
    card_bin: str | None = None
    email: str | None = None
    email_domain: str | None = None
    user: str | None = None
    device: str | None = None

    def targets(self) -> tuple[Target, ...]:
        """What is to be asked about. Raises InvalidValueError for a malformed value: it must not pass unasked."""
        given = (
            (Kind.ip, self.ip),
            (Kind.card_bin, self.card_bin),
            (Kind.email, self.email),
            (Kind.email_domain, self.email_domain),
            (Kind.user, self.user),
            (Kind.device, self.device),
        )
        return tuple(Target.parse(kind, text) for kind, text in given if text is not None)


def parse_kind(text: str) -> Kind:
    """The kind called `text`; `range`, `bin` and `domain` are understood as well."""
    if isinstance(text, Kind):
        return text
    name = text.strip().lower().replace("-", "_")
    name = {"range": "ip", "bin": "card_bin", "domain": "email_domain"}.get(name, name)
    try:
        return Kind(name)
    except ValueError:
        raise InvalidValueError(
            f"'{text}' is not a type of entry", remedy=f"types: {', '.join(kind.value for kind in Kind)}"
        ) from None


def guess_kind(text: str) -> Kind:
    """The only kind that a bare value can be. Raises InvalidValueError where it could be several."""
    plain = text.strip()
    if "@" in plain:
        return Kind.email
    if re.fullmatch(r"[0-9]{6,8}", plain):
        return Kind.card_bin
    if ":" in plain or "/" in plain or re.fullmatch(r"[0-9.]+", plain):
        return Kind.ip
    if "." in plain:
        return Kind.email_domain
    raise InvalidValueError(f"'{text}' does not say what type it is", remedy="name it with --type")


def parse_reason(text: str) -> str:
    """Why an entry is listed: one line, never empty."""
    return _one_line("reason", text, LONGEST_REASON)


def parse_actor(text: str) -> str:
    """Who makes a change: one line, never empty."""
    return _one_line("actor", text, LONGEST_ACTOR)


def _one_line(what: str, text: str, longest: int) -> str:
    plain = " ".join(text.split())
    if not plain:
        raise InvalidValueError(f"the {what} is empty", remedy=f"give a {what} that your colleagues will understand")
    if len(plain) > longest:
        raise InvalidValueError(f"the {what} has {len(plain)} characters", remedy=f"use at most {longest}")
    if not plain.isprintable():
        raise InvalidValueError(f"the {what} {plain!r} has unprintable characters", remedy="use plain text")
    return plain


def _ip(text: str) -> str:
    if "%" in text:
        raise InvalidValueError(
            f"'{text}' has a zone id, which means something on one machine only", remedy="leave out '%' and after"
        )
    if "/" not in text:
        return str(_unmapped(_address(text)))
    host, _, mask = text.partition("/")
    address = _address(host)
    if not re.fullmatch(r"[0-9]{1,3}", mask) or int(mask) > address.max_prefixlen:
        raise InvalidValueError(
            f"'{text}' has no prefix length between 1 and {address.max_prefixlen}",
            remedy=f"write a range like {address}/{24 if address.version == 4 else 64}",
        )
    network: Network = ipaddress.ip_network((address, int(mask)), strict=False)
    if network.network_address != address:
        raise InvalidValueError(f"'{text}' has bits set beyond its prefix", remedy=f"did you mean {network}?")
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        mapped = _unmapped(network.network_address)
        network = ipaddress.ip_network((mapped, network.prefixlen - 96))
    if network.prefixlen == 0:
        raise InvalidValueError(f"'{text}' would list every address there is", remedy="name a smaller range")
    return str(network if network.prefixlen < network.max_prefixlen else network.network_address)


def _address(text: str) -> Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise InvalidValueError(
            f"'{text}' is not an IP address or range",
            remedy="write it like 203.0.113.7, 203.0.113.0/24 or 2001:db8::/32",
        ) from None


def _unmapped(address: Address) -> Address:
    """An IPv4 client reaches an IPv6 socket as ::ffff:a.b.c.d: the same client, so the same value."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _card_bin(text: str) -> str:
    if not re.fullmatch(r"[0-9]{6,8}", text):
        shown = text if len(text) <= max(BIN_LENGTHS) else f"{text[:6]}..."  # it may be a whole card number
        raise InvalidValueError(
            f"'{shown}' is not a card BIN", remedy="give the first 6 to 8 digits of the card number"
        )
    return text


def _domain(text: str) -> str:
    plain = text.lower().removesuffix(".")
    try:
        name = plain.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise InvalidValueError(f"'{text}' is not an e-mail domain", remedy=_DOMAIN_REMEDY) from None
    labels = name.split(".")
    if len(labels) < 2 or len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidValueError(f"'{text}' is not an e-mail domain", remedy=_DOMAIN_REMEDY)
    if labels[-1].isdigit():
        raise InvalidValueError(f"'{text}' is not an e-mail domain", remedy="list an address with --ip")
    return name


def _email(text: str) -> str:
    local, at, domain = text.rpartition("@")
    plain = local.lower()
    if not at or not _LOCAL.fullmatch(plain):
        raise InvalidValueError(f"'{text}' is not an e-mail address", remedy="write it like someone@example.com")
    return f"{plain}@{_domain(domain)}"


def _identifier(text: str) -> str:
    if not _IDENTIFIER.fullmatch(text):
        raise InvalidValueError(
            f"{text[:40]!r} is not an identifier", remedy="1 to 128 visible ASCII characters, without spaces"
        )
    return text


_PARSERS: Mapping[Kind, Callable[[str], str]] = {
    Kind.ip: _ip,
    Kind.card_bin: _card_bin,
    Kind.email_domain: _domain,
    Kind.email: _email,
    Kind.user: _identifier,
    Kind.device: _identifier,
}
