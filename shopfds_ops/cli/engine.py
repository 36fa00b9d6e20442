"""The command that tells of engines: engine."""

from __future__ import annotations

import typer

from shopfds_ops.cli.options import FLAGS, Format, FormatOption, finish


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(engine)


def engine(format: FormatOption = Format.table) -> None:
    """Show both engines, and which one is chosen and why.

    Whether each can be used here or why not, its versions, and what it has of this stack: data, and nodes that run.
    Exit code 1 if the chosen one cannot be used.

    \b
    Examples:
      shopfds engine
      shopfds --engine docker engine --format json
    """
    from shopfds_ops.engines.overview import examine
    from shopfds_ops.settings import find_project, load

    configuration = load(find_project(), FLAGS)
    finish(examine(configuration.project, configuration.settings), format)
