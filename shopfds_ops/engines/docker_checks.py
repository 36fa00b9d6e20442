"""What the docker engine finds on this machine: before it starts nodes, when that fails, and for `doctor`."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import psutil
from python_on_whales.exceptions import DockerException

from shopfds_ops.engines import checks, daemon, ports
from shopfds_ops.engines.containers import LAST_LINES, Belongings, Container, refused
from shopfds_ops.engines.folders import FREE_SPACE
from shopfds_ops.engines.images import ImageSet
from shopfds_ops.errors import EngineError, PortTakenError
from shopfds_ops.result import Finding, Level
from shopfds_ops.settings import Settings
from shopfds_ops.topology import Node, Topology

SUBNET_REMEDY = "choose another one: `shopfds config set docker.subnet 10.X.Y.0/24`"
SPACE_REMEDY = "free some space: `docker system df` says what Docker keeps"

IMAGES_REMEDY = "`shopfds up` gets them; `shopfds images build` makes them here, where no registry answers"


def images(used: ImageSet, missing: Sequence[str]) -> Iterator[Finding]:
    """Which images the stack uses, and whether they are here."""
    if missing:
        yield Finding("images", "fail", f"{used.kind}; missing: {', '.join(missing)}", IMAGES_REMEDY)
    else:
        yield Finding("images", "ok", f"{used.kind}: {', '.join(used.references.values())}")


def examine(ours: Belongings, settings: Settings, volumes: Sequence[str], topology: Topology) -> Iterator[Finding]:
    """Daemon, space, ports, nodes and leftovers. `volumes`: those that the nodes have."""
    yield Finding("docker", "ok", daemon.look().text)
    free = free_space(ours)
    if free is not None:
        level: Level = "fail" if free < FREE_SPACE else "warning" if free < checks.DISK_WARNING else "ok"
        yield Finding("disk", level, f"{free / 2**30:.1f} GiB free for Docker", "" if level == "ok" else SPACE_REMEDY)
    containers = ours.nodes()
    yield from checks.free_ports(settings, [_published(node) for node in down(topology, containers)], "")
    yield from checks.nodes(topology, {name: item.report() for name, item in containers.items()})
    yield from _leftovers(ours, containers, volumes, topology)


def _leftovers(
    ours: Belongings, containers: Mapping[str, Container], volumes: Sequence[str], topology: Topology
) -> Iterator[Finding]:
    foreign = sorted(containers.keys() - {node.name for node in (*topology, *topology.jobs)})
    for name in foreign:
        text = f"container {containers[name].name} belongs to no node"
        yield Finding("leftovers", "warning", text, "`shopfds up` removes it")
    unused = sorted(ours.volumes().keys() - set(volumes))
    for name in unused:
        text = f"volume {ours.stack}_{name} belongs to no node"
        yield Finding("leftovers", "warning", text, "`docker volume rm` it if you do not need it")
    if not foreign and not unused:
        yield Finding("leftovers", "ok", "none")


def down(nodes: Sequence[Node] | Topology, containers: Mapping[str, Container]) -> list[Node]:
    """Those of the nodes that do not run."""
    return [node for node in nodes if node.name not in containers or not containers[node.name].alive]


def require_images(missing: Sequence[str]) -> None:
    """Raise EngineError if images are missing."""
    if missing:
        raise EngineError(f"these images are missing: {', '.join(missing)}", remedy=IMAGES_REMEDY)


def require_free_ports(settings: Settings, nodes: Sequence[Node]) -> None:
    """Raise PortTakenError if somebody has a port that one of these nodes shall have on this machine."""
    ports.require_free(settings.bind, [_published(node) for node in nodes], "", settings.ports.offset)


def _published(node: Node) -> Node:
    """Other ports stay inside the container."""
    return replace(node, ports=tuple(port for port in node.ports if port.published))


def free_space(ours: Belongings) -> int | None:
    """Bytes that are free where Docker keeps everything; None where that is another machine."""
    root = Path(ours.ask("info", "--format", "{{.DockerRootDir}}").strip())
    return shutil.disk_usage(root).free if root.is_dir() else None


def require_space(ours: Belongings) -> None:
    """Raise EngineError if servers would run out of space."""
    free = free_space(ours)
    if free is not None and free < FREE_SPACE:
        raise EngineError(
            f"Docker has {free // 2**20} MiB free; {FREE_SPACE // 2**20} MiB are needed", remedy=SPACE_REMEDY
        )


def require_subnet(ours: Belongings, subnet: IPv4Network) -> None:
    """Raise EngineError if the subnet of steady addresses, not made yet, is somebody else's."""
    networks = json.loads(ours.ask("network", "inspect", *ours.ask("network", "ls", "--quiet").split()))
    if any(ours.owns(network["Labels"] or {}) for network in networks):
        return
    for network in networks:
        for config in network["IPAM"]["Config"] or ():
            _require_apart(subnet, config["Subnet"], f"the Docker network {network['Name']}")
    if sys.platform != "linux":
        return  # the daemon runs in a virtual machine, which has interfaces of its own
    for interface, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            if address.netmask and "." in address.address:
                _require_apart(subnet, f"{address.address}/{address.netmask}", f"the network interface {interface}")


def _require_apart(subnet: IPv4Network, other: str, whose: str) -> None:
    network = ipaddress.ip_network(other, strict=False)
    if isinstance(network, IPv4Network) and network.overlaps(subnet):
        raise EngineError(f"the subnet {subnet} of this stack overlaps with {network} of {whose}", remedy=SUBNET_REMEDY)


@contextmanager
def explained(subnet: IPv4Network) -> Iterator[None]:
    """Turns a failure of `docker compose up` into an error that names its cause."""
    try:
        yield
    except DockerException as error:
        raise _cause(error.stderr or "", subnet) from None


def _cause(said: str, subnet: IPv4Network) -> EngineError:
    lines = "\n".join(line.strip() for line in said.splitlines()[-LAST_LINES:])
    if match := re.search(r":(\d+)\b[^\n]*(?:port is already allocated|address already in use)", said):
        return PortTakenError(
            f"port {match[1]} is taken by {ports.holder(int(match[1])).text}",
            remedy="stop it, or move this stack: `shopfds config set ports.offset NUMBER`",
            details=lines,
        )
    if "Pool overlaps" in said:
        what = f"the subnet {subnet} of this stack overlaps with another one"
        return EngineError(what, remedy=SUBNET_REMEDY, details=lines)
    if "no space left" in said:
        return EngineError("Docker has no space left", remedy=SPACE_REMEDY, details=lines)
    return refused("start the nodes", said)
