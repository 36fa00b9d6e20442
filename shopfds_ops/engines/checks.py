"""What the local engine finds when it is asked whether this machine suits it: for `doctor`."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from shopfds_ops.engines import folders, packages, ports
from shopfds_ops.engines.base import NodeState
from shopfds_ops.engines.packages import Installed
from shopfds_ops.result import Finding, Level
from shopfds_ops.settings import Settings
from shopfds_ops.topology import Node, Topology

DISK_WARNING = 2 * 2**30
FILE_LIMIT = 4096


def servers(installed: Mapping[str, Installed]) -> Iterator[Finding]:
    """What the distribution provides, and what is missing, too old, or newer than what was tried."""
    for sentence in packages.missing(installed):
        yield Finding("servers", "fail", sentence, "`make setup` (or `shopfds setup`) installs it")
    for requirement in packages.REQUIREMENTS:
        server = installed.get(requirement.server)
        if server is None:
            continue
        yield Finding("servers", "ok", f"{requirement.title} {server.text} in {server.folder}")
        if server.version[0] > requirement.newest_tried:
            text = f"{requirement.title} {server.text} is newer than what was tried ({requirement.newest_tried})"
            yield Finding("servers", "warning", text, "report what does not work")


def places(project: Path, folder: Path) -> Iterator[Finding]:
    """Whether project and data folder can be written, the space that is left, and how many files may be open."""
    for path in (project, folder):
        if os.access(folders.nearest(path), os.W_OK):
            yield Finding("folders", "ok", f"{path} is writable")
        else:
            remedy = "correct its permissions, or `shopfds config set data DIR`"
            yield Finding("folders", "fail", f"{path} cannot be written", remedy)
    free = shutil.disk_usage(folders.nearest(folder)).free
    level: Level = "fail" if free < folders.FREE_SPACE else "warning" if free < DISK_WARNING else "ok"
    yield Finding("disk", level, f"{free / 2**30:.1f} GiB free for data", "" if level == "ok" else "free some space")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILE_LIMIT:
        remedy = f"raise it: `ulimit -n {FILE_LIMIT}`"
        yield Finding("file limit", "warning", f"at most {hard} open files per process", remedy)
    else:
        yield Finding("file limit", "ok", f"open files per process: {soft}, up to {'any' if hard < 0 else hard}")


def free_ports(settings: Settings, down: Sequence[Node], stack: str) -> Iterator[Finding]:
    """Whether the nodes that do not run would find their ports free."""
    taken = ports.taken(settings.bind, down, stack)
    for node, port, holder in taken:
        remedy = f"stop that process, or move this stack: {ports.move(settings.ports.offset)}"
        yield Finding("ports", "fail", f"port {port} of {node.name} is taken by {holder.text}", remedy)
    if not taken:
        yield Finding("ports", "ok", "all ports are ours or free")


def nodes(topology: Topology, states: Mapping[str, NodeState]) -> Iterator[Finding]:
    """Whether the stack runs as a whole, or not at all."""
    down = [name for name in topology.names if name not in states or states[name].state != "running"]
    if down and len(down) < len(topology):
        yield Finding("nodes", "fail", f"not running: {', '.join(down)}", "see `shopfds status`, then `shopfds up`")
    else:
        yield Finding("nodes", "ok", f"{len(topology) - len(down)} of {len(topology)} run")


def leftovers(volumes: Path, topology: Topology, states: Mapping[str, NodeState]) -> Iterator[Finding]:
    """Processes without their supervisor, and volumes that belong to no node."""
    unknown = [name for name, state in states.items() if state.state == "unknown"]
    for name in unknown:
        remedy = "`shopfds up` takes it back, `shopfds down` ends it"
        yield Finding("leftovers", "warning", f"{name} runs without its supervisor", remedy)
    names = {path.name for path in volumes.iterdir()} if volumes.is_dir() else set()
    foreign = sorted(names - set(topology.names))
    for name in foreign:
        remedy = "remove it if you do not need it"
        yield Finding("leftovers", "warning", f"{volumes / name} belongs to no node", remedy)
    if not unknown and not foreign:
        yield Finding("leftovers", "ok", "none")
