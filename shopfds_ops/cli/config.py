"""Commands for the settings: config show, get, set, path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shopfds_ops.cli.options import FLAGS, Format, FormatOption, finish, open_stack

app = typer.Typer(
    help="Show and change the settings.\n\nDefaults < shopfds.toml < SHOPFDS_* environment < flags.",
    no_args_is_help=True,
)
Key = Annotated[str, typer.Argument(help="a dotted key, such as ports.offset")]


@app.command()
def show(format: FormatOption = Format.table) -> None:
    """Show every setting and where it came from.

    Secrets are shown by name only.
    """
    from shopfds_ops import secrets, settings
    from shopfds_ops.result import Result, Table

    project = settings.find_project()
    configuration = settings.load(project, FLAGS)
    rows = [(key, _text(value), origin) for key, value, origin in configuration.entries()]
    present = secrets.present(project / settings.SECRETS_FILE)
    masked = [(name, "********" if name in present else "(not generated yet)", ".env") for name in secrets.PURPOSES]
    data = {
        "project": project,
        "settings": {key: {"value": value, "origin": origin} for key, value, origin in configuration.entries()},
        "secrets": {name: name in present for name in secrets.PURPOSES},
    }
    table = Table(f"Settings of {project}", ("key", "value", "origin"), (*rows, *masked))
    finish(Result("config show", data, (table,)), format)


@app.command()
def get(key: Key) -> None:
    """Print one value.

    \b
    Example: shopfds config get ports.offset
    """
    from shopfds_ops import settings
    from shopfds_ops.errors import UnknownNameError

    entries = {name: value for name, value, _ in settings.load(settings.find_project(), FLAGS).entries()}
    if key not in entries:
        raise UnknownNameError("setting", key, entries)
    typer.echo(_text(entries[key]))


@app.command("set")
def set_(key: Key, value: Annotated[str, typer.Argument(help="a TOML value, or a bare string")]) -> None:
    """Write one value to shopfds.toml.

    A value that is not valid is refused, and nothing is changed.

    \b
    Example: shopfds config set ports.offset 100
    """
    from shopfds_ops import settings
    from shopfds_ops.result import Message, Result

    project = settings.find_project()
    if key == "data":
        open_stack().refuse_move()
    if key in ("project", "docker.name"):
        from shopfds_ops.engines.choice import compose_files
        from shopfds_ops.engines.docker_checks import require_no_data_left

        text = value.strip("\"'")
        named = {"project": text} if key == "project" else {"docker": {"name": text}}
        before, after = (
            compose_files(project, settings.load(project, flags).settings) for flags in (FLAGS, {**FLAGS, **named})
        )
        require_no_data_left(before, after)
    written = settings.set_value(project, key, value)
    configuration = settings.load(project, FLAGS)
    messages = [Message("ok", f"{key} = {_text(written)} in {configuration.file}", "`shopfds up` applies it")]
    origin = configuration.origins.get(key, "default")
    if origin not in ("file", "default"):
        messages.append(Message("warning", f"the {origin} overrides it for now"))
    finish(Result("config set", {"key": key, "value": written}, (), tuple(messages)))


@app.command()
def path() -> None:
    """Where things are: project, settings, secrets, rendered files, data."""
    from shopfds_ops import settings
    from shopfds_ops.engines.choice import choose

    project = settings.find_project()
    configuration = settings.load(project, FLAGS)
    data = choose(project, configuration.settings).engine.data
    for name, place in (
        ("project", project),
        ("settings", configuration.file),
        ("secrets", project / settings.SECRETS_FILE),
        ("rendered", project / settings.INFRASTRUCTURE),
        ("data", Path(data) if Path(data).is_absolute() else data),
    ):
        missing = isinstance(place, Path) and not place.exists()
        typer.echo(f"{name:<9} {place}{'  (not there yet)' if missing else ''}")


def _text(value: object) -> str:
    if value is None:
        return "(not set)"
    return str(value).lower() if isinstance(value, bool) else str(value)
