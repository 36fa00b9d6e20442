"""Commands of the blacklist: add, check, remove, list, ttl, import, export, history, rebuild."""

from __future__ import annotations

import datetime as dt
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shopfds_ops.cli.options import Format, FormatOption, finish, open_stack

if TYPE_CHECKING:
    from services.fds.blacklist.entries import Target

app = typer.Typer(help="The blacklist: values whose orders are refused.", no_args_is_help=True, rich_markup_mode=None)


class TypeName(StrEnum):
    """What an entry lists."""

    ip = "ip"
    card_bin = "card_bin"
    email_domain = "email_domain"
    email = "email"
    user = "user"
    device = "device"


class FileFormat(StrEnum):
    """How an import is written."""

    csv = "csv"
    json = "json"
    plain = "plain"


class ExportFormat(StrEnum):
    """How an export is written."""

    csv = "csv"
    json = "json"


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


@app.command()
def add(
    *,
    ip: IpOption = None,
    range: RangeOption = None,
    bin: BinOption = None,
    email_domain: DomainOption = None,
    email: EmailOption = None,
    user: UserOption = None,
    device: DeviceOption = None,
    ttl: TtlOption = "permanent",
    reason: ReasonOption = "added by hand",
    replace: Annotated[bool, typer.Option("--replace", help="set life and reason even if it lives longer")] = False,
    actor: ActorOption = None,
    format: FormatOption = Format.table,
) -> None:
    """List values. Of a value that is listed already, the longer life wins.

    \b
    Examples:
      shopfds blacklist add --ip 203.0.113.7 --ttl 7d --reason "card testing"
      shopfds blacklist add --range 2001:db8:7::/48 --email-domain mailinator.com
      shopfds blacklist add --user 4711 --ttl 4h --replace
    """
    from services.fds.blacklist.durations import parse_duration
    from services.fds.blacklist.manager import proposal
    from shopfds_ops import blacklist

    targets = _targets(ip, range, bin, email_domain, email, user, device)
    with blacklist.explained():
        life, who = parse_duration(ttl), _actor(actor)
        proposals = [proposal(target, life, reason) for target in targets]
    live = open_stack().live
    done = blacklist.run(live, lambda manager: manager.add_entries(proposals, actor=who, replace=replace))
    finish(blacklist.added(done, _now()), format)


@app.command()
def check(
    *,
    ip: IpOption = None,
    range: RangeOption = None,
    bin: BinOption = None,
    email_domain: DomainOption = None,
    email: EmailOption = None,
    user: UserOption = None,
    device: DeviceOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Ask whether values are listed. Exit code 1 if any is.

    A value is listed by itself, or by a range, a shorter BIN or a domain.

    \b
    Examples:
      shopfds blacklist check --ip 203.0.113.7
      shopfds blacklist check --ip 203.0.113.7 --bin 41111111 --email someone@mail.example.com
      shopfds blacklist check --user 4711 -o json
    """
    from shopfds_ops import blacklist

    targets = _targets(ip, range, bin, email_domain, email, user, device)
    live = open_stack().live
    verdict = blacklist.run(live, lambda manager: manager.check_targets(targets, certain=True))
    finish(blacklist.checked(targets, verdict, _now()), format)


@app.command()
def remove(
    *,
    ip: IpOption = None,
    range: RangeOption = None,
    bin: BinOption = None,
    email_domain: DomainOption = None,
    email: EmailOption = None,
    user: UserOption = None,
    device: DeviceOption = None,
    reason: ReasonOption = "removed by hand",
    actor: ActorOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Take entries off the list.

    All that are named, or none if one of them is not listed.

    \b
    Examples:
      shopfds blacklist remove --ip 203.0.113.7 --reason "customer called"
      shopfds blacklist remove --range 203.0.113.0/24
    """
    from shopfds_ops import blacklist

    targets = _targets(ip, range, bin, email_domain, email, user, device)
    with blacklist.explained():
        who = _actor(actor)
    live = open_stack().live
    done = blacklist.run(live, lambda manager: manager.remove_entries(targets, actor=who, reason=reason))
    finish(blacklist.removed(done), format)


@app.command("list")
def list_(
    type: Annotated[TypeName | None, typer.Option("--type", help="only entries of this type")] = None,
    text: Annotated[str | None, typer.Option("--text", help="only with this in value or reason")] = None,
    expiring: Annotated[
        str | None, typer.Option("--expiring", metavar="24h", help="only those that end within this time")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="at most so many")] = 50,
    format: FormatOption = Format.table,
) -> None:
    """Show active entries, newest first.

    \b
    Examples:
      shopfds blacklist list --type ip --limit 20
      shopfds blacklist list --text mailinator
      shopfds blacklist list --expiring 24h -o json
    """
    from services.fds.blacklist.durations import parse_duration
    from services.fds.blacklist.entries import Kind
    from shopfds_ops import blacklist

    with blacklist.explained():
        within = parse_duration(expiring) if expiring else None
    kind = Kind(type.value) if type else None
    live = open_stack().live
    page = blacklist.run(live, lambda manager: manager.list_entries(kind=kind, text=text, expiring=within, limit=limit))
    finish(blacklist.listed(page, _now()), format)


@app.command()
def ttl(
    ttl: Annotated[str, typer.Argument(metavar="7d|4h|permanent", help="how long from now on")],
    *,
    ip: IpOption = None,
    range: RangeOption = None,
    bin: BinOption = None,
    email_domain: DomainOption = None,
    email: EmailOption = None,
    user: UserOption = None,
    device: DeviceOption = None,
    reason: ReasonOption = "life changed by hand",
    actor: ActorOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Set how long entries live from now on.

    Longer or shorter than before.

    \b
    Examples:
      shopfds blacklist ttl 30d --ip 203.0.113.7
      shopfds blacklist ttl permanent --email-domain mailinator.com --reason "never again"
    """
    from services.fds.blacklist.durations import parse_duration
    from shopfds_ops import blacklist

    targets = _targets(ip, range, bin, email_domain, email, user, device)
    with blacklist.explained():
        life, who = parse_duration(ttl), _actor(actor)
    live = open_stack().live
    done = blacklist.run(live, lambda manager: manager.set_ttls(targets, life, actor=who, reason=reason))
    finish(blacklist.ttl_set(done, _now()), format)


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="a file, or - for what is piped in")],
    *,
    input_format: Annotated[
        FileFormat | None, typer.Option("--input-format", help="how it is written", show_default="seen from it")
    ] = None,
    type: Annotated[
        TypeName | None, typer.Option("--type", help="of lines that do not say it", show_default="seen from the value")
    ] = None,
    ttl: Annotated[
        str, typer.Option("--ttl", metavar="7d|permanent", help="of lines that do not say it")
    ] = "permanent",
    reason: Annotated[
        str | None,
        typer.Option("--reason", "-r", help="of lines that do not say it", show_default="imported from FILE"),
    ] = None,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="import the good lines of a bad list")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="set life and reason even if they live longer")] = False,
    actor: ActorOption = None,
    format: FormatOption = Format.table,
) -> None:
    """List all entries of a CSV, a JSON or a plain list.

    All or, if a line is bad, none.

    CSV has a header with the columns type, value, ttl or expires_at, and reason; only value must be there. JSON is a
    list of objects with the same names, or an export. A plain list has one value on each line.

    \b
    Examples:
      shopfds blacklist import backup.csv
      curl -s https://example.com/list.txt | shopfds blacklist import - --type ip --ttl 7d --reason "feed"
      shopfds blacklist import partners.json --skip-invalid
    """
    from services.fds.blacklist import lists
    from services.fds.blacklist.durations import parse_duration
    from services.fds.blacklist.entries import Kind
    from services.fds.blacklist.errors import InvalidListError
    from shopfds_ops import blacklist, console
    from shopfds_ops.events import Progress

    name = "standard input" if file == "-" else file
    with blacklist.explained():
        defaults = lists.Defaults(
            reason=reason or f"imported from {Path(name).name}",
            kind=Kind(type.value) if type else None,
            ttl=parse_duration(ttl),
        )
        who = _actor(actor)
        text = lists.decode(_content(file), name)
        chosen = lists.ListFormat(input_format.value) if input_format else lists.detect(text, file)
        reading = lists.read(text, chosen, defaults, _now())
        if reading.bad and not skip_invalid:
            raise InvalidListError(
                f"{name} has {blacklist.counted(len(reading.bad), 'bad line', 'bad lines')}: nothing was changed",
                reading.bad,
                remedy="correct what is bad, or import the rest with --skip-invalid",
            )
        if not reading.proposals and not reading.expired:
            raise InvalidListError(f"{name} has no entries", reading.bad)
    live = open_stack().live
    labels = {"record": "into the record", "copy": "into the copy"}
    with console.progress() as sink:
        done = blacklist.run(
            live,
            lambda manager: manager.import_entries(
                reading.proposals,
                actor=who,
                replace=replace,
                notify=lambda what, count, total: sink(Progress(labels.get(what, what), count, total, "entries")),
            ),
        )
    finish(blacklist.imported(done, reading.bad, reading.expired), format)


@app.command()
def export(
    format: Annotated[ExportFormat, typer.Option("--format", "-o", help="how to write it")] = ExportFormat.csv,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="default: standard output")] = None,
) -> None:
    """Write all active entries for `import` to read.

    A backup, or a list for another stack.

    \b
    Examples:
      shopfds blacklist export > backup.csv
      shopfds blacklist export -o json --output backup.json
    """
    from services.fds.blacklist import lists
    from services.fds.blacklist.entries import Entry
    from services.fds.blacklist.manager import BlacklistManager
    from shopfds_ops import blacklist
    from shopfds_ops.files import write_atomically

    async def everything(manager: BlacklistManager) -> list[Entry]:
        return [entry async for entry in manager.export()]

    entries = blacklist.run(open_stack().live, everything)
    lines = lists.write_csv(entries) if format is ExportFormat.csv else lists.write_json(entries)
    if output is None:
        sys.stdout.writelines(lines)
    else:
        write_atomically(output, "".join(lines).encode(), mode=0o600)


@app.command()
def history(
    *,
    ip: IpOption = None,
    range: RangeOption = None,
    bin: BinOption = None,
    email_domain: DomainOption = None,
    email: EmailOption = None,
    user: UserOption = None,
    device: DeviceOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="at most so many")] = 50,
    format: FormatOption = Format.table,
) -> None:
    """Show what was changed, newest first.

    When, by whom, why, and until when entries lived before and after.

    \b
    Examples:
      shopfds blacklist history --ip 203.0.113.7
      shopfds blacklist history --limit 200 -o json
    """
    from shopfds_ops import blacklist

    targets = _targets(ip, range, bin, email_domain, email, user, device, needed=False)
    live = open_stack().live
    finish(blacklist.told(blacklist.run(live, lambda manager: manager.history(targets, limit=limit))), format)


@app.command()
def rebuild(format: FormatOption = Format.table) -> None:
    """Mend the copy in Redis Cluster from PostgreSQL.

    The copy becomes equal to the record, and what was mended is said.

    Needed after Redis lost its data; safe and useful at any time.

    \b
    Examples:
      shopfds blacklist rebuild
      shopfds blacklist rebuild -o json
    """
    from shopfds_ops import blacklist, console
    from shopfds_ops.events import Progress

    live = open_stack().live
    with console.progress() as sink:
        done = blacklist.run(
            live,
            lambda manager: manager.rebuild(
                lambda what, count, total: sink(Progress(what, count, total, "entries")),
            ),
        )
    finish(blacklist.rebuilt(done), format)


def _targets(  # noqa: PLR0917  # the options of every command, in their order
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


def _actor(given: str | None) -> str:
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


def _content(file: str) -> bytes:
    """What the file holds, or what is piped in."""
    from shopfds_ops.errors import UsageError

    if file == "-":
        if sys.stdin.isatty():
            raise UsageError("nothing is piped in", remedy="`cat FILE | shopfds blacklist import -`, or name the file")
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", remedy="name a file that is there") from None


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
