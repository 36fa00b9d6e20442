"""What the stack consists of, as plain frozen data: nodes, their ports and needs, and the site that places them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from shopfds_ops.errors import UnknownNameError


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network that nodes share, where the engine separates networks."""

    name: str
    steady: bool = False
    """Its members remember each other by address, so each keeps its own there for ever."""


INTERNAL = Network(name="shopfds-internal")
MONITORING = Network(name="shopfds-monitoring")
"""From here metrics are read."""


class Site(Protocol):
    """Where nodes are placed: how they find each other, and where their files lie.

    Components are written against this Protocol and so never learn which engine runs them.
    Every node listens on the same port number inside the stack and on the host.
    """

    @property
    def name(self) -> str:
        """The engine's name, and the folder below `infrastructure/` that holds the files rendered for it."""
        ...

    @property
    def listen(self) -> str:
        """The address on which a server accepts connections."""
        ...

    @property
    def peers(self) -> str:
        """pg_hba address (CIDR or keyword) that covers the other nodes and the operator's host."""
        ...

    def host(self, node: str, network: Network | None = None) -> str:
        """The name or address by which the other nodes (those in `network`, if given) reach `node`."""
        ...

    def volume(self, node: str, volume: str, image: str) -> str:
        """The absolute path at which `node`, run from `image`, sees its data folder `volume`."""
        ...

    def config(self, source: str) -> str:
        """The absolute path at which nodes see the rendered file `source` (such as `postgres/master.conf`)."""
        ...

    def secret(self, node: str, name: str) -> str:
        """The absolute path at which `node` sees the secret file `name`."""
        ...

    def version(self, server: str) -> tuple[int, ...]:
        """The version of `server` (postgres, redis, rabbitmq) that will run, such as (15, 18)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A TCP port of a node: `number` is the same inside the stack and on the host."""

    name: str
    number: int
    published: bool = True
    """Whether the host needs to reach it (a Redis Cluster bus port, say, stays inside)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """The command by which an engine that has health checks of its own judges a node; times in seconds."""

    command: tuple[str, ...]
    interval: float = 5.0
    timeout: float = 5.0
    start_period: float = 60.0
    retries: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a node may use at most. Memory in MiB."""

    memory: int
    cpus: float = 1.0
    pids: int = 512
    shared_memory: int | None = None
    """POSIX shared memory in MiB, where the engine limits it; None leaves it at the engine's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One process or container of the stack."""

    name: str
    component: str
    role: str
    """The field's own word: primary, replica, node, broker, heartbeat."""
    image: str
    """Which server it is (postgres, redis, rabbitmq): the key of an image, or of a distribution's package."""
    user: str
    """The unprivileged user it runs as where the engine can choose."""
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    volumes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """Rendered files it reads, by their names below the site's folder."""
    secrets: tuple[str, ...] = ()
    """Secret files it reads, by name; their contents come from the component."""
    networks: tuple[Network, ...] = (INTERNAL,)
    depends_on: tuple[str, ...] = ()
    health: HealthCheck | None = None
    resources: Resources = Resources(memory=256)
    stop_signal: str = "SIGTERM"
    stop_timeout: float = 30.0
    """Seconds between the stop signal and SIGKILL."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "environment", MappingProxyType(dict(self.environment)))

    def port(self, name: str) -> int:
        """The number of the port called `name`."""
        for port in self.ports:
            if port.name == name:
                return port.number
        raise UnknownNameError(f"port of {self.name}", name, [port.name for port in self.ports])


@dataclass(frozen=True, slots=True)
class Topology:
    """All nodes of the stack, in the order in which the components list them."""

    nodes: tuple[Node, ...]
    jobs: tuple[Node, ...] = ()
    """What makes the nodes a stack where the rendered files are run by other tools; see `Component.jobs`."""

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.nodes)

    def node(self, name: str) -> Node:
        """The node called `name`, or an error that suggests the nearest name."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise UnknownNameError("node", name, self.names)

    def of(self, component: str) -> tuple[Node, ...]:
        """The nodes of one component."""
        return tuple(node for node in self.nodes if node.component == component)

    def select(self, names: Iterable[str]) -> tuple[Node, ...]:
        """The nodes named: a node by its own name, or all nodes of a component by the component's."""
        wanted: set[str] = set()
        components = {node.component for node in self.nodes}
        for name in names:
            if name in components:
                wanted.update(node.name for node in self.of(name))
            elif name in self.names:
                wanted.add(name)
            else:
                raise UnknownNameError("node or component", name, [*self.names, *components])
        return tuple(node for node in self.nodes if node.name in wanted)

    @property
    def memory(self) -> int:
        """The sum of all memory limits, in MiB."""
        return sum(node.resources.memory for node in self.nodes)
