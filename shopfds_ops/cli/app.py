"""The `shopfds` command: the groups put together, global flags, and how errors reach the operator."""

from __future__ import annotations

import itertools
import os
import sys
from typing import Annotated

import typer

from shopfds_ops import __version__
from shopfds_ops.cli import blacklist, config, database, engine, images, lifecycle, operate, render, reports
from shopfds_ops.cli.options import FLAGS, EngineName

INTERRUPTED = 130

app = typer.Typer(
    name="shopfds",
    help="Operate ShopFDS: PostgreSQL with a replica, a six-node Redis Cluster and RabbitMQ, from one command.",
    epilog="Start with `shopfds up`. Every command has examples: `shopfds COMMAND --help`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (lifecycle, operate, reports, engine, render, database):
    module.register(app)
app.add_typer(config.app, name="config")
app.add_typer(blacklist.app, name="blacklist")
app.add_typer(images.app, name="images")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"shopfds {__version__}")
        raise typer.Exit


@app.callback()
def _globals(
    engine: Annotated[EngineName | None, typer.Option(help="what runs the nodes (default: the setting)")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="show a traceback when something fails")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    FLAGS.clear()
    if engine is not None:
        FLAGS["engine"] = engine.value


def main() -> None:
    """Entry point of the console script. A traceback only with --debug."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]  # libpq would take them for settings of ours
    # What follows `exec NODE` belongs to the command that is run there.
    ours = sys.argv[1 : sys.argv.index("exec")] if "exec" in sys.argv else sys.argv[1:]
    debug = "--debug" in ours
    arguments = [argument for argument in ours if argument != "--debug"] + sys.argv[1 + len(ours) :]
    try:
        app(args=arguments, prog_name="shopfds")
    except SystemExit as end:
        # Typer turns Ctrl-C into an exit of its own; a command that itself ends with 130 has no such cause.
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
            _fail("interrupted", "running the same command again finishes its work", INTERRUPTED, debug)
        raise
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left: not an error, and nobody to tell
        sys.exit(0)
    except Exception as error:
        from shopfds_ops.errors import ShopfdsError

        if isinstance(error, ShopfdsError):
            _fail(error.what, error.remedy, error.exit_code, debug, error.details)
        elif isinstance(error, OSError):
            _fail(f"{error.filename or 'operating system'}: {error.strerror or error}", "", 1, debug)
        else:
            _fail(f"unexpected {type(error).__name__}: {error}", "a defect of shopfds: run it with --debug", 1, debug)


def _fail(what: str, remedy: str, code: int, debug: bool, details: str = "") -> None:
    from shopfds_ops import console
    from shopfds_ops.errors import ShopfdsError
    from shopfds_ops.result import Message, Result

    if debug:
        import traceback

        traceback.print_exc()
    if _wants_json(sys.argv[1:]):
        data = {"details": details.splitlines()} if details else None
        console.show(Result(_command(sys.argv[1:]), data, (), (Message("fail", what, remedy),), code), "json")
    console.fail(ShopfdsError(what, remedy=remedy, details=details))
    sys.exit(code)


def _wants_json(arguments: list[str]) -> bool:
    pairs = itertools.pairwise(arguments)
    return any(argument in ("--format=json", "-ojson") for argument in arguments) or any(
        option in ("--format", "-o") and value == "json" for option, value in pairs
    )


def _command(arguments: list[str]) -> str:
    """The command as its results name it: `status`, `blacklist import`."""
    words = [argument for argument in arguments if not argument.startswith("-")]
    return " ".join(words[: 2 if words[:1] in (["config"], ["blacklist"], ["images"]) else 1])


if __name__ == "__main__":
    main()
