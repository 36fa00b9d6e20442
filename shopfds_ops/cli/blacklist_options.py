"""Options that the commands of the blacklist share: what an entry is, how long it lives, who lists it."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from services.fds.blacklist.entries import Target


class TypeName(StrEnum):
    """What an entry lists."""

    ip = "ip"
    card_bin = "card_bin"
    email_domain = "email_domain"
    email = "email"
    user = "user"
    device = "device"


Values = list[str] | None
IpOption = Annotated[Values, typer.Option("--ip", metavar="ADDRESS", help="an IPv4 or IPv6 address")]
RangeOption = Annotated[Values, typer.Option("--range", metavar="CIDR", help="an IPv4 or IPv6 range: 203.0.113.0/24")]
BinOption = Annotated[Values, typer.Option("--bin", metavar="DIGITS", help="the first 6 to 8 digits of card numbers")]
DomainOption = Annotated[Values, typer.Option("--email-domain", metavar="DOMAIN", help="a domain and its subdomains")]
EmailOption = Annotated[Values, typer.Option("--email", metavar="ADDRESS", help="an e-mail address")]
UserOption = Annotated[Values, typer.Option("--user", metavar="ID", help="a user")]
DeviceOption = Annotated[Values, typer.Option("--device", metavar="ID", help="a device")]
TtlOption = Annotated[str, typer.Option("--ttl", metavar="7d|4h|permanent", help="how long")]
ReasonOption = Annotated[str, typer.Option("--reason", "-r", help="why; kept in the history")]
ActorOption = Annotated[str | None, typer.Option("--actor", help="who, in the history", show_default="you")]


def targets_of(  # noqa: PLR0917  # the options of every command, in their order
    ip: Values,
    range: Values,
    bin: Values,
    email_domain: Values,
    email: Values,
    user: Values,
    device: Values,
    *,
    needed: bool = True,
) -> list[Target]:
    """The values named, each in its canonical form, in the order of the options."""
    from services.fds.blacklist.entries import Kind, Target
    from shopfds_ops import blacklist
    from shopfds_ops.errors import UsageError

    for text in ip or ():
        if "/" in text:
            raise UsageError(f"--ip '{text}' is a range", remedy=f"name it with --range {text}")
    for text in range or ():
        if "/" not in text:
            raise UsageError(f"--range '{text}' is not a range", remedy="write it like 203.0.113.0/24, or use --ip")
    given: tuple[tuple[Kind, Values], ...] = (
        (Kind.ip, ip),
        (Kind.ip, range),
        (Kind.card_bin, bin),
        (Kind.email_domain, email_domain),
        (Kind.email, email),
        (Kind.user, user),
        (Kind.device, device),
    )
    with blacklist.explained():
        targets = [Target.parse(kind, text) for kind, texts in given for text in texts or ()]
    if needed and not targets:
        raise UsageError(
            "no value is named",
            remedy="name one with --ip, --range, --bin, --email-domain, --email, --user or --device",
        )
    return list(dict.fromkeys(targets))


def actor_of(given: str | None) -> str:
    """Who makes the change: as given, or the user of the operating system."""
    import getpass
    import os

    from services.fds.blacklist.entries import parse_actor

    if given is not None:
        return parse_actor(given)
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def now() -> dt.datetime:
    """The present, UTC."""
    return dt.datetime.now(dt.UTC)
