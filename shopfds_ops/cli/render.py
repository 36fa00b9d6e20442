"""The command that writes infrastructure/ from settings: render."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shopfds_ops.cli.options import Format, FormatOption, finish, open_stack


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(render)


def render(
    check: Annotated[bool, typer.Option("--check", help="write nothing; exit 1 if something would change")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="show what changes, line by line")] = False,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="write there instead of infrastructure/")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="replace files edited by hand; keeps them as *.edited")
    ] = False,
    format: FormatOption = Format.table,
) -> None:
    """Write the configuration of all nodes.

    It goes to infrastructure/; nodes that would restart because of it are named.

    A file that somebody edited by hand is shown and kept. The same settings give the same bytes every time.

    \b
    Examples:
      shopfds render --check --diff
      shopfds render --output /tmp/review
    """
    from shopfds_ops.render import Output
    from shopfds_ops.result import Message, Result, Table

    stack = open_stack()
    rendered = stack.rendered()
    target = Output(output) if output else stack.output
    changes = target.compare(rendered) if check else stack.render(target, force=force)
    touched = [change for change in changes if change.kind != "same"]
    restarts = {} if output else stack.restarts(changes)
    rows = tuple((change.path, change.kind) for change in touched)
    tables = (Table("", ("file", "change"), rows),) if rows else ()
    messages = []
    if diff and format is Format.table:
        for change in touched:
            typer.echo(change.diff)
    for node, files in restarts.items():
        verb = "would restart" if check else "restarts at the next `shopfds up`"
        messages.append(Message("info", f"{node} {verb}, because of {', '.join(files)}"))
    edited = [change.path for change in touched if change.kind == "edited"]
    if edited and not force:
        messages.append(
            Message(
                "warning",
                f"edited by hand and kept: {', '.join(edited)}",
                "bring the change to shopfds.toml or the template; `shopfds render --force` replaces the file",
            )
        )
    if not touched:
        messages.append(Message("ok", f"{len(rendered)} files are up to date"))
    elif not check:
        messages.append(Message("ok", f"{len(rendered)} files rendered to {target.folder}"))
    failed = bool(touched) if check else bool(edited and not force)
    data = {"folder": target.folder, "files": changes, "restarts": restarts}
    finish(Result("render", data, tables, tuple(messages), 1 if failed else 0), format)
