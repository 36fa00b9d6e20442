"""Topology to Compose: the rendered docker-compose.yml, which runs the stack with this CLI and without it."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path

from shopfds_ops.engines.images import ImageSet
from shopfds_ops.engines.sites import DockerSite
from shopfds_ops.render import Source
from shopfds_ops.settings import INFRASTRUCTURE, Settings
from shopfds_ops.topology import Node, Topology

FILE = "docker-compose.yml"
SECRETS = "secrets"
"""The folder beside the Compose file with one file for each secret file."""
FILES_LABEL = "shopfds.files"
"""On every container: the digest of the rendered files that its node reads."""
IMAGES_LABEL = "shopfds.images"
"""On every container: the kind of its image."""
FIRST_ADDRESS = 10
"""Host part of the first steady address of a network; dynamic ones come from its upper half."""


class ComposeFiles:
    """What is rendered for Docker. It needs no daemon: `engines.docker` runs it, and so does `docker compose`."""

    name = "docker"

    def __init__(self, project: Path, settings: Settings, images: ImageSet) -> None:
        self.project = project
        self.settings = settings
        self.images = images
        self.site = DockerSite(images)

    @property
    def folder(self) -> Path:
        return self.project / INFRASTRUCTURE / self.name

    @property
    def file(self) -> Path:
        return self.folder / FILE

    @property
    def stack(self) -> str:
        """The Compose project: two checkouts on one machine must not take each other's containers and volumes."""
        return self.settings.docker.name or f"{self.settings.project}-{_digest(self.project)[:8]}"

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        """Where nodes have steady addresses: one of 16384 networks, by the stack's name."""
        if self.settings.docker.subnet is not None:
            return ipaddress.IPv4Network(self.settings.docker.subnet)
        drawn = bytes.fromhex(hashlib.sha256(self.stack.encode()).hexdigest()[:4])
        return ipaddress.IPv4Network(f"10.{192 + drawn[0] % 64}.{drawn[1]}.0/24")

    def sources(self, topology: Topology, files: Mapping[str, bytes]) -> Sequence[Source]:
        """docker-compose.yml."""
        return ()  # rendered from the next commit on

    def digest(self, node: Node, files: Mapping[str, bytes]) -> str:
        """Of the rendered files that the node reads; a container with another one is out of date."""
        parts = [name.encode() + b"\0" + files[f"{self.name}/{name}"] for name in node.files]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _digest(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()
