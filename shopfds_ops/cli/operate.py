"""Commands for single nodes: ps, logs, exec, kill."""

from __future__ import annotations

from typing import Annotated

import typer

from shopfds_ops.cli.options import Format, FormatOption, finish, open_stack


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(ps)
    app.command()(logs)
    app.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(execute)
    app.command()(kill)


def ps(format: FormatOption = Format.table) -> None:
    """List the nodes as the engine sees them.

    The servers are not asked: that is `status`. Exit code 0 whatever their state.
    """
    from shopfds_ops.result import Result
    from shopfds_ops.status import nodes, nodes_table

    stack = open_stack()
    found = nodes(stack)
    finish(Result("ps", found, (nodes_table(stack, found),)), format)


def logs(
    nodes: Annotated[
        list[str] | None, typer.Argument(metavar="[NODE|COMPONENT]...", help="all, if none is named")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on as lines come; end with Ctrl-C")] = False,
    since: Annotated[str | None, typer.Option(metavar="10m|TIME", help="a duration, or a time (UTC)")] = None,
    grep: Annotated[str | None, typer.Option(metavar="REGEX", help="only lines that match")] = None,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=0, help="only the last lines")] = None,
) -> None:
    """Show logs, of all nodes in the order of their times.

    \b
    Examples:
      shopfds logs postgres-primary --since 10m
      shopfds logs redis-cluster -f
      shopfds logs --grep "ERROR|FATAL" --tail 20
    """
    import datetime as dt
    import re
    from collections import deque

    from shopfds_ops import console
    from shopfds_ops.errors import UsageError
    from shopfds_ops.text import parse_since

    stack = open_stack()
    moment = parse_since(since, dt.datetime.now(dt.UTC)) if since else None
    try:
        pattern = re.compile(grep) if grep else None
    except re.error as error:
        raise UsageError(f"--grep '{grep}' is not a regular expression: {error}") from None
    chosen = stack.topology.select(nodes) if nodes else tuple(stack.topology)
    width = max(len(node.name) for node in chosen)
    past_only = tail if pattern is None else None
    matching = stack.engine.logs(chosen, since=moment, follow=follow, tail=past_only)
    if pattern is not None:
        matching = (line for line in matching if pattern.search(line.text))
        if tail is not None and not follow:
            matching = iter(deque(matching, maxlen=tail))
    try:
        for line in matching:
            prefix = f"{line.node:<{width}} | " if len(chosen) > 1 else ""
            typer.echo(prefix + console.ascii_only(line.text))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def execute(
    node: Annotated[str, typer.Argument(help="the node to run it in")],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[CMD]...", help="default: the server's client")
    ] = None,
) -> None:
    """Run a command where a node runs.

    The credentials of its server are ready; exits with the command's exit status.

    \b
    Examples:
      shopfds exec postgres-primary                         (psql)
      shopfds exec postgres-replica psql -c "SELECT pg_is_in_recovery()"
      shopfds exec redis-node-1 redis-cli cluster nodes
      shopfds exec rabbitmq rabbitmqctl -p shopfds list_queues name messages
    """
    stack = open_stack()
    target = stack.topology.node(node)
    stack.require_running([target])
    client = stack.component(target.component).client(stack.live, target)
    raise typer.Exit(stack.engine.attach(target, client.argv(command or ()), environment=client.environment))


def kill(
    node: Annotated[str, typer.Argument(help="the node to send it to")],
    signal: Annotated[str, typer.Option("--signal", "-s", help="SIGKILL, SIGSTOP, SIGCONT, SIGTERM, ...")] = "SIGKILL",
) -> None:
    """Send a signal to a node, to try a fault.

    A node that dies of SIGKILL, SIGTERM, SIGINT, SIGQUIT or SIGABRT stays down until `up` or `start`; one that is
    frozen by SIGSTOP goes on by SIGCONT, `up` or `start`.

    \b
    Examples:
      shopfds kill redis-node-1
      shopfds kill postgres-replica --signal SIGSTOP
    """
    import signal as signals

    from shopfds_ops.errors import UnknownNameError
    from shopfds_ops.result import Message, Result

    name = signal.upper() if signal.upper().startswith("SIG") else f"SIG{signal.upper()}"
    if name not in signals.Signals.__members__:
        raise UnknownNameError("signal", signal, signals.Signals.__members__)
    stack = open_stack()
    stack.engine.kill(stack.topology.node(node), name)
    finish(Result("kill", {"node": node, "signal": name}, (), (Message("ok", f"sent {name} to {node}"),)))
