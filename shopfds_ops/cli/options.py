"""Options that several commands share, and how every command opens the stack and ends."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from shopfds_ops.result import Result
    from shopfds_ops.stack import Stack

FLAGS: dict[str, Any] = {}
"""The global flags of this invocation, nested like the settings; the root command fills it in."""


class Format(StrEnum):
    """How a report is shown."""

    table = "table"
    json = "json"


class EngineName(StrEnum):
    """What runs the nodes."""

    auto = "auto"
    docker = "docker"
    local = "local"


class ImageKind(StrEnum):
    """Which container images the docker engine takes."""

    registry = "registry"
    offline = "offline"


FormatOption = Annotated[Format, typer.Option("--format", "-o", help="table for people, json for programs")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]
TimeoutOption = Annotated[
    float | None, typer.Option(min=1, help="seconds to wait for everything", show_default="the setting `timeout`")
]
ImagesOption = Annotated[
    ImageKind | None,
    typer.Option(
        "--images",
        help="with engine docker: official images, or ones made here",
        show_default="the setting `images.source`",
    ),
]


def open_stack(images: ImageKind | None = None) -> Stack:
    """The stack of the project in the working directory, with the global flags, and `images`, over its settings."""
    from shopfds_ops.stack import Stack

    return Stack.open(FLAGS if images is None else FLAGS | {"images": {"source": images.value}})


def finish(result: Result, format: Format = Format.table) -> None:
    """Show the result and end with its exit code."""
    from shopfds_ops import console

    console.show(result, format.value)
    raise typer.Exit(result.exit_code)


def confirm(question: str, yes: bool) -> None:
    """Ask before something that cannot be undone; a refusal, or nobody to ask, ends the command with exit code 1."""
    from shopfds_ops.errors import RefusedError

    if yes:
        return
    if not sys.stdin.isatty():
        raise RefusedError(question, remedy="this cannot be undone: add --yes to do it without being asked")
    if not typer.confirm(question, err=True):
        raise RefusedError("nothing was changed")
