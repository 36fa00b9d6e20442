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

from shopfds_ops.engines import checks, daemon, ports, watched
from shopfds_ops.engines.compose import ComposeFiles, origin
from shopfds_ops.engines.containers import LAST_LINES, Belongings, Container, refused
from shopfds_ops.engines.folders import FREE_SPACE
from shopfds_ops.engines.images import SERVERS, ImageSet, Kind, version_text
from shopfds_ops.errors import EngineError, PortTakenError
from shopfds_ops.result import Finding, Level
from shopfds_ops.settings import Settings
from shopfds_ops.topology import Node, Topology

SUBNET_REMEDY = "choose another one: `shopfds config set docker.subnet 10.X.Y.0/24`"
RENAME = "`shopfds config set docker.name {}`"
ANEW = "docs/operations.md tells how to dump and restore; `shopfds down --volumes` starts anew"
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
        yield Finding(
            "disk", level, f"{free / 2**30:.1f} GiB free for Docker", "" if level == "ok" else watched.SPACE_REMEDY
        )
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


# -- data --------------------------------------------------------------------------------------------------------


def require_own_name(ours: Belongings, place: ComposeFiles) -> None:
    """Raise EngineError if the Compose project is somebody else's, or another checkout's."""
    foreign = ours.foreign()
    if foreign:
        raise EngineError(
            f"the Compose project '{ours.stack}' belongs to something else, which has the {foreign[0]}",
            remedy=f"name this stack otherwise: {RENAME.format('NAME')}",
        )
    require_own_checkout(ours, place)


def require_own_checkout(ours: Belongings, place: ComposeFiles) -> None:
    """Raise EngineError if what there is of this name was made by another checkout."""
    other = _other_checkout(ours, place)
    if other is not None:
        raise EngineError(
            f"the Compose project '{ours.stack}' belongs to the stack in {other}",
            remedy=f"go there, or name this stack otherwise: {RENAME.format('NAME')}",
        )


def require_data_in_reach(ours: Belongings, place: ComposeFiles) -> None:
    """Raise EngineError if the stack had another name when its files were rendered, and left data under it."""
    made = origin(place.file)
    if made is None or made.stack == ours.stack:
        return
    former = ours.named(made.stack)
    if former.volumes() and _other_checkout(former, place) is None:
        raise EngineError(
            f"this stack's data are in the Docker volumes {made.stack}_*, made when it had that name"
            f" and was in {made.project}",
            remedy=f"{RENAME.format(made.stack)} goes on with them; after that, `shopfds down --volumes` removes them",
        )


def require_no_data_left(before: ComposeFiles, after: ComposeFiles) -> None:
    """Raise EngineError if the stack has data under its name `before`, which it would not find by its name `after`."""
    if before.stack == after.stack or not daemon.look().engine:
        return
    ours = Belongings(("docker",), before.stack)
    if ours.volumes() and _other_checkout(ours, before) is None:
        raise EngineError(
            f"this stack has its data in the Docker volumes {before.stack}_*, and would have the name '{after.stack}';"
            " nothing was changed",
            remedy=f"{RENAME.format(before.stack)} keeps the name, whatever else is changed;"
            " or start anew: `shopfds --engine docker down --volumes`",
        )


def _other_checkout(ours: Belongings, place: ComposeFiles) -> Path | None:
    """The folder of another checkout that has the stack of this name: its containers were made there, or our files
    were copied from there. A folder that was moved is no longer there."""
    made = origin(place.file)
    copied = (made.project / place.folder.relative_to(place.project),) if made and made.stack == ours.stack else ()
    folders = {*ours.folders(), *copied} - {place.folder.resolve()}
    found = (origin(folder / place.file.name) for folder in sorted(folders))
    return next((other.project for other in found if other and other.stack == ours.stack), None)


def require_same_servers(wanted: ImageSet, record: ImageSet | None, containers: Kind | None) -> None:
    """Raise EngineError if these images are not for the data that there are. `record` is what they were made with, as
    far as the rendered file tells, and `containers` the kind of what runs them."""
    kind = containers or (record.kind if record else wanted.kind)
    known = record if record and record.kind == kind else None
    if kind != wanted.kind:
        former = f" ({_versions(known)})" if known else ""
        raise EngineError(
            f"this stack's data were made with {kind} images{former}, and {wanted.kind} images ({_versions(wanted)})"
            " are asked for",
            remedy=f"`shopfds config set images.source {kind}` goes on with them; {ANEW}",
        )
    older = [server for server in SERVERS if known and not _opens(server, known, wanted)]
    if known and older:
        server = older[0]
        back = f"`shopfds config set images.{server} {known.references[server]}`"
        raise EngineError(
            f"this stack's data were made with {server} {version_text(known.versions[server])}, and"
            f" {version_text(wanted.versions[server])} is asked for",
            remedy=f"{back if kind == 'registry' else 'load the former images: `shopfds images load`'}; {ANEW}",
        )


def _opens(server: str, known: ImageSet, wanted: ImageSet) -> bool:
    """Whether the server in `wanted` opens the data of the one in `known`. A tag may name the major version only."""
    old, new = known.versions[server], wanted.versions[server]
    both = min(len(old), len(new))
    return new[:both] >= old[:both] and (server != "postgres" or new[0] == old[0])


def _versions(used: ImageSet) -> str:
    return ", ".join(f"{server} {version_text(version)}" for server, version in used.versions.items())


# -- before a start ----------------------------------------------------------------------------------------------


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
            f"Docker has {free // 2**20} MiB free; {FREE_SPACE // 2**20} MiB are needed",
            remedy=watched.SPACE_REMEDY,
        )


def require_subnet(ours: Belongings, subnet: IPv4Network) -> None:
    """Raise EngineError if the subnet of steady addresses, not made yet, is somebody else's."""
    networks = json.loads(ours.ask("network", "inspect", *ours.ask("network", "ls", "--quiet").split()))
    if any(ours.owns_network(network["Labels"] or {}) for network in networks):
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
    if watched.lacks_space(said):
        return EngineError("Docker has no space left", remedy=watched.SPACE_REMEDY, details=lines)
    return refused("start the nodes", said)
