"""Commands for container images: images list, build, save, load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shopfds_ops.cli.options import FLAGS, Format, FormatOption, finish

if TYPE_CHECKING:
    from shopfds_ops.engines.images import Kind
    from shopfds_ops.engines.imagestore import Images

BUNDLE = Path("shopfds-images.tar")

app = typer.Typer(
    help="Get the container images of the docker engine.\n\nOfficial ones come from a registry, offline ones are made"
    " here of Debian's or Ubuntu's packages. `shopfds up` gets what it needs by itself.",
    no_args_is_help=True,
)


@app.command("list")
def list_(format: FormatOption = Format.table) -> None:
    """List the images that this stack can use.

    The sizes of offline images overlap: they share nearly everything.
    """
    from shopfds_ops.result import Message, Result, Table
    from shopfds_ops.text import bytes_text

    store, running = _open()
    rows = store.rows(running)
    decision = store.decision(running)
    cells = tuple(
        (row.reference, row.kind, row.version or "-", bytes_text(row.size) if row.size else "-", row.state)
        for row in rows
    )
    said = f"this stack uses {decision.kind} images: {decision.reason}" if decision.kind else decision.reason
    tables = (Table("", ("image", "kind", "version", ">size", "state"), cells),)
    remedy = "" if decision.kind else "`shopfds up` pulls or builds them"
    data = {"kind": decision.kind, "reason": decision.reason, "images": rows}
    finish(Result("images list", data, tables, (Message("info", said, remedy),)), format)


@app.command()
def build(
    force: Annotated[bool, typer.Option("--force", help="make them anew, with the packages of today")] = False,
) -> None:
    """Make the offline images here.

    It takes about a minute, and nothing when they are there already. Packages of Debian or Ubuntu come from where this
    machine gets its own, or from the setting images.mirror.

    \b
    Examples:
      shopfds images build
      shopfds images build --force
    """
    from shopfds_ops import console

    store, _ = _open()
    with console.progress() as sink:
        store.build(sink, force=force)


@app.command()
def save(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the file to write")] = BUNDLE,
) -> None:
    """Write this stack's images to one file.

    It brings them to a machine without a network. The bundle holds either the official or the offline images.

    \b
    Example: shopfds images save /media/stick/shopfds-images.tar
    """
    from shopfds_ops import console
    from shopfds_ops.result import Message, Result
    from shopfds_ops.text import bytes_text

    store, running = _open()
    with console.progress() as sink:
        saved = store.save(file, running, sink)
    references = tuple(saved.references.values())
    text = f"{saved.kind} images saved to {file} ({bytes_text(file.stat().st_size)}): {', '.join(references)}"
    remedy = f"`shopfds images load {file.name}` on the other machine"
    finish(Result("images save", None, (), (Message("ok", text, remedy),)))


@app.command()
def load(file: Annotated[Path, typer.Argument(help="a file that `shopfds images save` wrote")]) -> None:
    """Load images that `images save` wrote.

    \b
    Example: shopfds images load /media/stick/shopfds-images.tar
    """
    from shopfds_ops import console
    from shopfds_ops.result import Message, Result

    store, running = _open()
    with console.progress() as sink:
        loaded = store.load(file, sink)
    messages = [Message("ok", f"loaded: {', '.join(loaded)}")]
    usable = {row.reference for row in store.rows(running)}
    foreign = [reference for reference in loaded if reference not in usable]
    if foreign:
        why = "this version and these settings of shopfds do not use them"
        messages.append(Message("warning", f"{why}: {', '.join(foreign)}", "`shopfds images list` says which are used"))
    finish(Result("images load", None, (), tuple(messages)))


def _open() -> tuple[Images, Kind | None]:
    """The images of this project's stack, and the kind that its containers are made of."""
    from shopfds_ops.engines import imagestore
    from shopfds_ops.settings import find_project, load

    configuration = load(find_project(), FLAGS)
    return imagestore.of_project(configuration.project, configuration.settings)
