"""Commands that start and stop: setup, up, down, start, stop, restart, init."""

from __future__ import annotations

from typing import Annotated

import typer

from shopfds_ops.cli.options import (
    FLAGS,
    Format,
    FormatOption,
    ImagesOption,
    TimeoutOption,
    YesOption,
    confirm,
    finish,
    open_stack,
)

Nodes = Annotated[list[str] | None, typer.Argument(metavar="[NODE|COMPONENT]...", help="all, if none is named")]
Names = Annotated[list[str] | None, typer.Option(metavar="NAME", help="a node or component; may be repeated")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (up, down, start, stop, restart, init):
        app.command(rich_help_panel=None)(command)
    app.command("setup")(setup)


def setup(
    no_start: Annotated[bool, typer.Option("--no-start", help="leave Docker's daemon stopped if it is")] = False,
) -> None:
    """Install what the engine needs.

    For engine local the servers, for engine docker Docker itself: Debian's packages, its daemon started, and Compose as
    its plugin. On Debian and Ubuntu, as root or by sudo; elsewhere it names what to install. The services that come
    with the packages are not started.

    \b
    Examples:
      shopfds setup
      shopfds --engine docker setup
    """
    from shopfds_ops import console
    from shopfds_ops.engines import choice, daemon, docker_setup, packages
    from shopfds_ops.result import Message, Result
    from shopfds_ops.settings import find_project, load

    configuration = load(find_project(), FLAGS)
    name, _ = choice.pick(configuration.project, configuration.settings)
    if name == "docker":
        with console.progress() as sink:
            docker_setup.install(sink, start_it=not no_start)
        finish(Result("setup", None, (), (Message("ok", f"engine docker is set up: {daemon.look().text}"),)))
    installed = packages.install()
    done = f"installed: {', '.join(installed)}" if installed else "everything that is needed is installed"
    found = ", ".join(f"{name} {item.text}" for name, item in packages.find().items())
    finish(Result("setup", None, (), (Message("ok", done), Message("ok", found))))


def up(
    *,
    only: Names = None,
    without: Names = None,
    no_seed: Annotated[bool, typer.Option("--no-seed", help="leave an empty database empty")] = False,
    images: ImagesOption = None,
    timeout: TimeoutOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Bring everything to life, and report its status.

    Renders, starts, waits for health, initializes, migrates, and seeds an empty database.
    Runs again and again without harm; finishes what an interrupted `up` left undone; mends what it finds broken.

    \b
    Examples:
      shopfds up
      shopfds up --only postgres --no-seed
      shopfds up --without rabbitmq --timeout 300
      shopfds up --images offline
    """
    from shopfds_ops import console
    from shopfds_ops.status import status

    stack = open_stack(images)
    with console.progress() as sink:
        done = stack.up(only=only or (), without=without or (), seed=not no_seed, timeout=timeout, sink=sink)
    finish(status(stack, expected=done.selected), format)


def down(
    volumes: Annotated[bool, typer.Option("--volumes", help="remove all data and the secrets too")] = False,
    everywhere: Annotated[bool, typer.Option("--everywhere", help="on both engines, whichever is chosen")] = False,
    yes: YesOption = False,
) -> None:
    """Stop everything; data stay, unless --volumes.

    The engine's own processes are stopped too, containers and networks removed. What another engine has of this stack
    is not touched, unless --everywhere; and while it has data, or cannot be asked, the secrets stay.

    \b
    Examples:
      shopfds down --volumes --yes
      shopfds down --volumes --everywhere
    """
    from shopfds_ops.result import Message, Result

    stack = open_stack()
    if volumes:
        engines = stack.engines(everywhere=everywhere)
        places = " and ".join(engine.data for engine in engines)
        secrets = "" if stack.need_of_secrets(engines) else f", and its secrets in {stack.secrets_file}"
        confirm(f"remove all data of this stack in {places}{secrets}?", yes)
    done = stack.down(volumes=volumes, everywhere=everywhere)
    messages = [Message("ok", f"stopped: {', '.join(done.nodes)}" if done.nodes else "nothing was running")]
    if volumes:
        kept = f"its data are removed; the secrets stay: {done.secrets_stay}"
        messages.append(Message("ok", kept if done.secrets_stay else "all data and secrets are removed"))
    finish(Result("down", {"stopped": done.nodes, "volumes_removed": volumes}, (), tuple(messages)))


def start(nodes: Nodes = None, images: ImagesOption = None, timeout: TimeoutOption = None) -> None:
    """Start nodes and wait until they are healthy.

    Initializes nothing: that is `up`.

    \b
    Example: shopfds start postgres-replica
    """
    from shopfds_ops import console
    from shopfds_ops.result import Message, Result

    stack = open_stack(images)
    with console.progress() as sink:
        done = stack.start(nodes or (), timeout=timeout, sink=sink)
    text = f"started: {', '.join(done.nodes)}" if done.nodes else "all of them were running"
    finish(Result("start", {"started": done.nodes}, (), (Message("ok", text),)))


def stop(nodes: Nodes = None) -> None:
    """Stop nodes gracefully; data stay. Stopping what does not run is a success.

    \b
    Example: shopfds stop redis-cluster
    """
    from shopfds_ops.result import Message, Result

    stopped = open_stack().stop(nodes or ())
    text = f"stopped: {', '.join(stopped)}" if stopped else "nothing was running"
    finish(Result("stop", {"stopped": stopped}, (), (Message("ok", text),)))


def restart(nodes: Nodes = None, timeout: TimeoutOption = None) -> None:
    """Stop nodes, start them again, wait until healthy.

    \b
    Example: shopfds restart rabbitmq
    """
    from shopfds_ops import console
    from shopfds_ops.result import Message, Result

    stack = open_stack()
    with console.progress() as sink:
        done = stack.restart(nodes or (), timeout=timeout, sink=sink)
    finish(Result("restart", {"started": done.nodes}, (), (Message("ok", f"restarted: {', '.join(done.nodes)}"),)))


def init(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMPONENT|STEP]...", help="redis-cluster, postgres.replication, ...; all, if none"),
    ] = None,
    timeout: TimeoutOption = None,
) -> None:
    """Initialize what runs.

    Each step checks the live server, applies what is missing, and verifies that it holds.

    \b
    Examples:
      shopfds init redis-cluster
      shopfds init postgres rabbitmq
    """
    from shopfds_ops import console
    from shopfds_ops.result import Message, Result

    stack = open_stack()
    with console.progress() as sink:
        done = stack.init(names or (), timeout=timeout, sink=sink)
    applied = [outcome.name for outcome in done.outcomes if outcome.changed and "." in outcome.name]
    text = f"applied: {', '.join(applied)}" if applied else "everything holds already; nothing was changed"
    finish(Result("init", {"applied": applied}, (), (Message("ok", text),)))
