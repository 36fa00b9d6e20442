"""Where each engine places nodes: the paths and addresses that nodes see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shopfds_ops.engines.images import ImageSet
from shopfds_ops.settings import VOLUMES
from shopfds_ops.topology import Network

EVERYWHERE = "0.0.0.0"  # noqa: S104  inside a container's own network, or where the settings ask for it


@dataclass(frozen=True, slots=True)
class LocalSite:
    """Plain processes on this machine: everything on loopback, everything below one data folder."""

    folder: Path
    bind: str
    versions: Mapping[str, tuple[int, ...]]
    name: str = "local"

    @property
    def listen(self) -> str:
        return self.bind

    @property
    def peers(self) -> str:
        return "127.0.0.0/8" if self.bind.startswith("127.") else "samenet"

    def host(self, node: str, network: Network | None = None) -> str:
        return "127.0.0.1" if self.bind == EVERYWHERE else self.bind

    def volume(self, node: str, volume: str, image: str) -> str:
        return str(self.folder / VOLUMES / node / volume)

    def config(self, source: str) -> str:
        return str(self.folder / "config" / source)

    def secret(self, node: str, name: str) -> str:
        return str(self.folder / "secrets" / node / name)

    def version(self, server: str) -> tuple[int, ...]:
        return self.versions[server]


@dataclass(frozen=True, slots=True)
class DockerSite:
    """Containers: every node has its own name, address and file system."""

    images: ImageSet
    name: str = "docker"
    listen: str = EVERYWHERE
    peers: str = "samenet"

    def host(self, node: str, network: Network | None = None) -> str:
        # A node is in several networks, and its bare name may be answered with its address in any of them.
        return node if network is None else f"{node}.{network.name}"

    def volume(self, node: str, volume: str, image: str) -> str:
        return self.images.contract(image).folder(volume)

    def config(self, source: str) -> str:
        return f"/etc/shopfds/{source}"

    def secret(self, node: str, name: str) -> str:
        return f"/run/secrets/{name}"

    def version(self, server: str) -> tuple[int, ...]:
        return self.images.versions[server]
