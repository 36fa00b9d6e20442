"""Options that several commands share, and how every command ends."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from shopfds_ops.result import Result


class Format(StrEnum):
    """How a report is shown."""

    table = "table"
    json = "json"


FormatOption = Annotated[Format, typer.Option("--format", "-o", help="table for people, json for programs")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]


def finish(result: Result, format: Format = Format.table) -> None:
    """Show the result and end with its exit code."""
    from shopfds_ops import console

    console.show(result, format.value)
    raise typer.Exit(result.exit_code)


def confirm(question: str, yes: bool) -> None:
    """Ask before something that cannot be undone; a refusal, or nobody to ask, ends the command with exit code 1."""
    import sys

    from shopfds_ops.errors import RefusedError

    if yes:
        return
    if not sys.stdin.isatty():
        raise RefusedError(question, remedy="this cannot be undone: add --yes to do it without being asked")
    if not typer.confirm(question, err=True):
        raise RefusedError("nothing was changed")
