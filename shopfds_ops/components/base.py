"""What a component is: the one place for all that is special about one part of the stack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from shopfds_ops.engines.base import Engine
from shopfds_ops.result import Problem, Table
from shopfds_ops.secrets import Secrets
from shopfds_ops.settings import Settings
from shopfds_ops.steps import Step
from shopfds_ops.topology import Node, Site, Topology

PUT_IN_FORCE = "`shopfds up` puts the new value in force; or restore the old one in .env"
"""What to do about a secret that was changed in .env, where `up` can mend it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known before anything runs: enough to make nodes and to render files."""

    settings: Settings
    site: Site


@dataclass(frozen=True, slots=True)
class Live:
    """What is known of a stack that runs (or should): enough to initialize, probe and report."""

    settings: Settings
    secrets: Secrets
    engine: Engine
    topology: Topology

    def address(self, node: str, port: str) -> tuple[str, int]:
        """Host and port at which this machine reaches `node`."""
        return self.engine.address(self.topology.node(node), port)


@dataclass(frozen=True, slots=True)
class Report:
    """What `status` shows of one component: typed data for programs, tables for people, problems with remedies."""

    component: str
    data: Any
    tables: tuple[Table, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def healthy(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Client:
    """The command-line client of a node's server, ready to use: what `shopfds exec NODE` runs."""

    program: tuple[str, ...]
    """The client with the options that connect it."""
    arguments: tuple[str, ...] = ()
    """What it is asked when the operator asks nothing."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """For any command: it carries the credentials."""

    def argv(self, command: Sequence[str]) -> tuple[str, ...]:
        """The operator's command; the client itself gets its connection in front of the operator's arguments."""
        if not command:
            return self.program + self.arguments
        return (*self.program, *command[1:]) if command[0] == self.program[0] else tuple(command)


class Component(ABC):
    """One part of the stack. Subclasses hold no state: everything comes in by Plan or Live."""

    name: ClassVar[str]
    """As the operator types it: postgres, redis-cluster, rabbitmq."""
    templates: ClassVar[str]
    """The folder below `templates/` whose files it renders to the folder of the same name."""

    @abstractmethod
    def nodes(self, plan: Plan) -> Sequence[Node]:
        """The nodes it consists of."""

    def jobs(self, plan: Plan) -> Sequence[Node]:
        """What initializes it where the rendered files are run without this CLI (`docker compose up`): nodes whose
        health check tells that the work is done, and which stay idle then. Where the CLI runs the nodes, it does that
        work, and more, by `steps`, and no job runs.
        """
        return ()

    def variables(self, plan: Plan) -> Mapping[str, Any]:
        """What its templates see besides `settings` and `site`."""
        return {}

    def secret_files(self, plan: Plan, secrets: Secrets) -> Mapping[str, str]:
        """The content of every secret file that its nodes name."""
        return {}

    def preflight(self, live: Live) -> None:  # noqa: B027  most components have nothing to refuse
        """Raise before anything is started if starting would lose data."""

    @abstractmethod
    def probe(self, live: Live, node: Node) -> str | None:
        """None when the node does its job, else the assertion that does not hold and what the server said."""

    @abstractmethod
    def steps(self, live: Live) -> Sequence[Step]:
        """Its initialization. A step requires nodes and steps by their names."""

    @abstractmethod
    def report(self, live: Live) -> Report:
        """Look at the live servers. Never raises for a server that is down: that is a Problem."""

    def refused_secrets(self, live: Live) -> Sequence[Problem]:
        """Secrets (by name, as `where`) that the running servers refuse: rotated in one place only."""
        return ()

    def client(self, live: Live, node: Node) -> Client:
        """The client that `shopfds exec NODE` runs without a command, and the environment for any other one."""
        return Client(("sh",))
