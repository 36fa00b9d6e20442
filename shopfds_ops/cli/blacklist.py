"""Commands of the blacklist: add, check, remove, list, ttl, history, rebuild; import and export beside it."""

from __future__ import annotations

from typing import Annotated

import typer

from shopfds_ops.cli import blacklist_lists
from shopfds_ops.cli.blacklist_options import (
    ActorOption,
    BinOption,
    DeviceOption,
    DomainOption,
    EmailOption,
    IpOption,
    RangeOption,
    ReasonOption,
    TtlOption,
    TypeName,
    UserOption,
    actor_of,
    now,
    targets_of,
)
from shopfds_ops.cli.options import Format, FormatOption, finish, open_stack

app = typer.Typer(help="The blacklist: values whose orders are refused.", no_args_is_help=True, rich_markup_mode=None)


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

    targets = targets_of(ip, range, bin, email_domain, email, user, device)
    with blacklist.explained():
        life, who = parse_duration(ttl), actor_of(actor)
        proposals = [proposal(target, life, reason) for target in targets]
    live = open_stack().live
    done = blacklist.run(live, lambda manager: manager.add_entries(proposals, actor=who, replace=replace))
    finish(blacklist.added(done, now()), format)


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

    targets = targets_of(ip, range, bin, email_domain, email, user, device)
    live = open_stack().live
    verdict = blacklist.run(live, lambda manager: manager.check_targets(targets, certain=True))
    finish(blacklist.checked(targets, verdict, now()), format)


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

    targets = targets_of(ip, range, bin, email_domain, email, user, device)
    with blacklist.explained():
        who = actor_of(actor)
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
    finish(blacklist.listed(page, now()), format)


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

    targets = targets_of(ip, range, bin, email_domain, email, user, device)
    with blacklist.explained():
        life, who = parse_duration(ttl), actor_of(actor)
    live = open_stack().live
    done = blacklist.run(live, lambda manager: manager.set_ttls(targets, life, actor=who, reason=reason))
    finish(blacklist.ttl_set(done, now()), format)


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

    targets = targets_of(ip, range, bin, email_domain, email, user, device, needed=False)
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


blacklist_lists.register(app)
