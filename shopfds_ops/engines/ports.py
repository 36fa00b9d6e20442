"""Ports on this machine: whether those that nodes need are free, and who has them if not."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import psutil

from shopfds_ops.engines import strays
from shopfds_ops.errors import PortTakenError
from shopfds_ops.topology import Node

OFFSET_STEP = 100


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Who listens on a port, in words: the process, its id, and the ShopFDS project it belongs to if any."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        connections = []
    for connection in connections:
        if connection.laddr and connection.laddr.port == port and connection.pid:
            try:
                process = psutil.Process(connection.pid)
                belongs = strays.owner(process)
                project = f", {belongs[1]} of the stack in {belongs[0]}" if belongs else ""
                return f"{process.name()} (pid {connection.pid}{project})"
            except psutil.NoSuchProcess:
                continue
    return "a process of another user"


def taken(host: str, nodes: Sequence[Node]) -> list[tuple[Node, int]]:
    """The ports of these nodes that somebody else has."""
    return [(node, port.number) for node in nodes for port in node.ports if not is_free(host, port.number)]


def require_free(host: str, nodes: Sequence[Node], offset: int) -> None:
    """Raise PortTakenError that names the port, its holder, and how to move this stack."""
    found = taken(host, nodes)
    if not found:
        return
    node, port = found[0]
    more = f" ({len(found) - 1} more ports of this stack are taken too)" if len(found) > 1 else ""
    raise PortTakenError(
        f"port {port}, which {node.name} needs, is taken by {holder(port)}{more}",
        remedy=f"stop that process, or move this stack: `shopfds config set ports.offset {offset + OFFSET_STEP}`",
    )
