"""Ports on this machine: whether those that nodes need are free, and who has them if not."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from shopfds_ops.engines import daemon, strays
from shopfds_ops.errors import PortTakenError
from shopfds_ops.topology import Node

OFFSET_STEP = 100
PROXY = "docker-proxy"
"""Docker's process that listens for a container."""


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a port: in words for the operator, and the ShopFDS stack it belongs to, if any."""

    text: str
    stack: str | None = None


def holder(port: int) -> Holder:
    """Who listens on a port: the container, or the process, its id, and the ShopFDS project it belongs to."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        connections = []
    for connection in connections:
        if connection.laddr and connection.laddr.port == port and connection.pid:
            try:
                process = psutil.Process(connection.pid)
                if process.name() == PROXY and (container := daemon.container_at(port)):
                    return Holder(f"container {container}")
                belongs = strays.owner(process)
                project = f", {belongs[1]} of the stack with its data in {belongs[0]}" if belongs else ""
                return Holder(f"{process.name()} (pid {connection.pid}{project})", belongs[0] if belongs else None)
            except psutil.NoSuchProcess:
                continue
    return Holder("a process of another user")


def taken(host: str, nodes: Sequence[Node], stack: str) -> list[tuple[Node, int, Holder]]:
    """The ports of these nodes that somebody else than `stack` itself has."""
    busy = [(node, port.number) for node in nodes for port in node.ports if not is_free(host, port.number)]
    found = [(node, number, holder(number)) for node, number in busy]
    return [item for item in found if item[2].stack != stack]


def require_free(host: str, nodes: Sequence[Node], stack: str, offset: int) -> None:
    """Raise PortTakenError that names the port, its holder, and how to move this stack."""
    found = taken(host, nodes, stack)
    if not found:
        return
    node, port, who = found[0]
    more = f" ({len(found) - 1} more ports of this stack are taken too)" if len(found) > 1 else ""
    raise PortTakenError(
        f"port {port}, which {node.name} needs, is taken by {who.text}{more}",
        remedy=f"stop it, or move this stack: {move(offset)}",
    )


def move(offset: int) -> str:
    """The command that moves a stack to other ports."""
    return f"`shopfds config set ports.offset {offset + OFFSET_STEP}`"
