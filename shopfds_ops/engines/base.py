"""The Engine Protocol: what it takes to run the nodes of a topology, whatever they run on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal, Protocol

from shopfds_ops.events import Sink
from shopfds_ops.render import Source
from shopfds_ops.result import Finding
from shopfds_ops.topology import Node, Site, Topology

State = Literal["running", "paused", "stopped", "restarting", "failed", "unknown"]
"""paused: frozen by a signal, it holds its ports and answers nobody."""

FATAL_SIGNALS = frozenset({"SIGKILL", "SIGTERM", "SIGINT", "SIGQUIT", "SIGABRT", "SIGSEGV"})
"""A node that dies of one of these, sent by `Engine.kill`, stays down."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """What the engine knows of a node now. Memory in bytes; unknown values are None, never 0."""

    node: str
    state: State
    pid: int | None = None
    started_at: dt.datetime | None = None
    memory: int | None = None
    exit_status: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that was run in a node, and ended."""

    argv: tuple[str, ...]
    exit_status: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a node's log; `at` is None when neither it nor a line before it carries a time."""

    node: str
    at: dt.datetime | None
    text: str


class Engine(Protocol):
    """Runs nodes. All methods raise EngineError with a remedy when the engine itself refuses."""

    @property
    def name(self) -> str: ...
    @property
    def site(self) -> Site: ...

    @property
    def data(self) -> str:
        """Where the engine keeps data, for people."""
        ...

    @property
    def programs(self) -> str:
        """Where the servers' programs come from, for people: packages, or a kind of images."""
        ...

    def examine(self, topology: Topology) -> Iterable[Finding]:
        """What `doctor` says of the machine: servers, places, ports, leftovers. Changes nothing."""
        ...

    def sources(self, topology: Topology, files: Mapping[str, bytes]) -> Sequence[Source]:
        """The files that the engine itself needs rendered, such as supervisord.conf.

        `files` (path -> content) is what the components rendered, with hand edits as they are.
        """
        ...

    def publish(self, secrets: Mapping[str, str]) -> None:
        """Put secret files (name -> content) beside the rendered files, where those can be run without this CLI; else
        do nothing. Those that data were made with stay.

        Raises EngineError if what is rendered now would not be for the data that there are.
        """
        ...

    def provide(self, sink: Sink) -> None:
        """Get what nodes need and what can be got unasked, such as container images; says what it does."""
        ...

    def require(self) -> None:
        """Raise EngineError with the remedy if this machine lacks what nodes need, such as a server."""
        ...

    def preflight(self, nodes: Sequence[Node]) -> None:
        """Raise EngineError with the remedy if these nodes could not be started now: a taken port, a full disk.

        Changes nothing. Nodes that run already are well.
        """
        ...

    def prepare(self, topology: Topology, rendered: Mapping[str, bytes], secrets: Mapping[str, str]) -> Sequence[str]:
        """Put rendered files (path -> content) and secret files (name -> content) where the nodes read them.

        Nodes whose files change are stopped first; returns their names. Idempotent.
        """
        ...

    def start(self, nodes: Sequence[Node]) -> Sequence[str]:
        """Start the nodes that do not run, and restart those whose definition or files changed.

        Returns the names of the nodes that were started. Does not wait for health.
        """
        ...

    def stop(self, nodes: Sequence[Node]) -> Sequence[str]:
        """Stop nodes in reverse order, gracefully within their stop timeout; returns those that ran."""
        ...

    def shutdown(self) -> None:
        """Stop the engine's own processes, and all nodes with them. Keeps data."""
        ...

    def states(self) -> Mapping[str, NodeState]:
        """The state of every node of the prepared topology, in one call."""
        ...

    def execute(
        self,
        node: Node,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout: float = 60.0,
    ) -> Completed:
        """Run a command where the node runs, as its user; secrets go through `environment` or `stdin`."""
        ...

    def attach(self, node: Node, argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> int:
        """Run an interactive command where the node runs, on this terminal; returns its exit status."""
        ...

    def logs(
        self, nodes: Sequence[Node], *, since: dt.datetime | None = None, follow: bool = False, tail: int | None = None
    ) -> Iterator[LogLine]:
        """Log lines of the nodes, oldest first; with `follow`, goes on as they come."""
        ...

    def kill(self, node: Node, signal: str = "SIGKILL") -> None:
        """Send a signal. A node that dies of it stays down until it is started again."""
        ...

    def address(self, node: Node, port: str) -> tuple[str, int]:
        """Host and port at which this machine reaches the node's port called `port`."""
        ...

    def with_data(self, nodes: Sequence[Node]) -> Set[str]:
        """The names of those of the nodes of which a volume holds something."""
        ...

    def wipe(self, node: Node) -> None:
        """Remove all data of a stopped node."""
        ...

    def remove(self) -> None:
        """Remove everything the engine keeps: data, secret files, logs. Only after `shutdown`."""
        ...
