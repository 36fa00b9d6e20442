"""Commands that look and change nothing: status, doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from shopfds_ops.cli.options import Format, FormatOption, finish, open_stack


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(status)
    app.command()(doctor)


def status(
    component: Annotated[
        str | None, typer.Argument(help="postgres, redis-cluster, rabbitmq, nodes or data; all, if none")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="look again and again; end with Ctrl-C")] = False,
    interval: Annotated[float, typer.Option(min=0.5, help="seconds between two looks")] = 2.0,
    format: FormatOption = Format.table,
) -> None:
    """Report nodes, replication, cluster, broker and data. Exit code 1 if anything is not healthy.

    \b
    Examples:
      shopfds status
      shopfds status postgres --watch
      shopfds status --format json
    """
    from shopfds_ops import console
    from shopfds_ops.status import status as report

    stack = open_stack()
    if not watch:
        finish(report(stack, component), format)
    console.watch(lambda: report(stack, component), interval, format.value)


def doctor(format: FormatOption = Format.table) -> None:
    """Check machine, settings, secrets and leftovers.

    Each finding comes with its remedy. Exit code 1 if one of them keeps the stack from working.
    """
    from shopfds_ops.doctor import examine

    finish(examine(open_stack()), format)
