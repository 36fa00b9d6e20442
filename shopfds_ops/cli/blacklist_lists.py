"""Commands that read and write whole lists of the blacklist: import, export."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from shopfds_ops.cli.blacklist_options import ActorOption, TypeName, actor_of, now
from shopfds_ops.cli.options import Format, FormatOption, finish, open_stack


class FileFormat(StrEnum):
    """How an import is written."""

    csv = "csv"
    json = "json"
    plain = "plain"


class ExportFormat(StrEnum):
    """How an export is written."""

    csv = "csv"
    json = "json"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("import")(import_)
    app.command()(export)


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
        who = actor_of(actor)
        text = lists.decode(_content(file), name)
        chosen = lists.ListFormat(input_format.value) if input_format else lists.detect(text, file)
        reading = lists.read(text, chosen, defaults, now())
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
    from shopfds_ops.errors import UsageError
    from shopfds_ops.files import write_atomically
    from shopfds_ops.result import Message, Result

    async def everything(manager: BlacklistManager) -> list[Entry]:
        return [entry async for entry in manager.export()]

    entries = blacklist.run(open_stack().live, everything)
    lines = lists.write_csv(entries) if format is ExportFormat.csv else lists.write_json(entries)
    if output is None:
        sys.stdout.writelines(lines)
    else:
        if not output.parent.is_dir():
            raise UsageError(f"{output.parent} is not a folder", remedy="make it first, or name another file")
        write_atomically(output, "".join(lines).encode(), mode=0o600)
        finish(Result("blacklist export", None, (), (Message("ok", f"{len(entries)} entries are in {output}"),)))


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
