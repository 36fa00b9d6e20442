"""Topology to Compose: the rendered docker-compose.yml, which runs the stack with this CLI and without it."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shopfds_ops.engines.images import RECORD, ImageSet
from shopfds_ops.engines.sites import DockerSite
from shopfds_ops.render import Source
from shopfds_ops.settings import INFRASTRUCTURE, Settings
from shopfds_ops.topology import Network, Node, Topology

FILE = "docker-compose.yml"
SECRETS = "secrets"
"""The folder beside the Compose file with one file for each secret file."""
FILES_LABEL = "shopfds.files"
"""On every container: the digest of the rendered files that its node reads."""
IMAGES_LABEL = "shopfds.images"
"""On every container: the kind of its image."""
NODE_LABEL = "shopfds.node"
"""On every container and every volume: whose it is. What lacks it is not ours, whatever Compose project it is in."""
NETWORK_LABEL = "shopfds.network"
"""On every network: its name in the Compose file."""
COMPONENT_LABEL = "shopfds.component"
FIRST_ADDRESS = 10
"""Host part of the first steady address of a network; dynamic ones come from its upper half."""
SCRATCH = "/tmp"  # noqa: S108  a tmpfs of the container's own
"""Where every container may write besides its volumes; gone with the container."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A rendered or secret file: its name at the top of the Compose file, and where the container sees it."""

    name: str
    target: str


@dataclass(frozen=True, slots=True)
class Membership:
    """A service in a network; `address` only where the network is steady."""

    network: str
    alias: str
    address: str | None


@dataclass(frozen=True, slots=True)
class Service:
    """A node, or a job, as one service of Compose. Everything that has to be thought about is decided here: the
    template only writes it down."""

    node: Node
    image: str
    user: str
    labels: Mapping[str, str]
    conditions: Mapping[str, str]
    """Of its dependencies."""
    networks: Sequence[Membership]
    ports: Sequence[str]
    configs: Sequence[Mount]
    secrets: Sequence[Mount]
    volumes: Sequence[Mount]
    scratch: Sequence[str]
    """The folders of the container that are a tmpfs."""


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
        """docker-compose.yml: a service for each node and each job, and what they share."""
        nodes = (*topology, *topology.jobs)
        addresses = self._addresses(topology)
        services = [self._service(node, topology, addresses, files) for node in nodes]
        networks = _unique(network for node in nodes for network in node.networks)
        if sum(network.steady for network in networks) > 1:
            raise ValueError("only one network can be steady: there is one subnet")
        _, upper_half = self.subnet.subnets()
        variables = {
            "settings": self.settings,
            "stack": self.stack,
            "project": self.project,
            "record": RECORD,
            "files_label": FILES_LABEL,
            "node_label": NODE_LABEL,
            "network_label": NETWORK_LABEL,
            "images": self.images,
            "services": services,
            "networks": networks,
            "subnet": self.subnet,
            "dynamic": upper_half,
            "volumes": {volume.name: service.node.name for service in services for volume in service.volumes},
            "configs": {_key(source): source for node in nodes for source in node.files},
            "secrets": {name: f"{SECRETS}/{name}" for node in nodes for name in node.secrets},
            "quoted": quoted,
        }
        return [Source(f"{self.name}/{FILE}.j2", f"{self.name}/{FILE}", variables)]

    def volume(self, node: str, volume: str) -> str:
        """The name of a node's volume in the Compose file; for Docker, the stack's name and `_` stand before it."""
        return f"{node}-{volume}"

    def _service(
        self,
        node: Node,
        topology: Topology,
        addresses: Mapping[tuple[str, str], str],
        files: Mapping[str, bytes],
    ) -> Service:
        contract = self.images.contract(node.image)
        return Service(
            node=node,
            image=self.images.references[node.image],
            user=f"{contract.uid}:{contract.gid}",
            labels={
                NODE_LABEL: node.name,
                COMPONENT_LABEL: node.component,
                IMAGES_LABEL: self.images.kind,
                FILES_LABEL: self.digest(node, files),
            },
            conditions={
                need: "service_healthy" if topology.node(need).health else "service_started" for need in node.depends_on
            },
            networks=[
                Membership(network.name, self.site.host(node.name, network), addresses.get((network.name, node.name)))
                for network in node.networks
            ],
            ports=[f"{self.settings.bind}:{port.number}:{port.number}" for port in node.ports if port.published],
            configs=[Mount(_key(source), self.site.config(source)) for source in node.files],
            secrets=[Mount(name, self.site.secret(node.name, name)) for name in node.secrets],
            volumes=[
                Mount(self.volume(node.name, volume), self.site.volume(node.name, volume, node.image))
                for volume in node.volumes
            ],
            # Official images declare their data folder as a volume: where nothing is mounted over it, Docker would make
            # a nameless volume for every container.
            scratch=(SCRATCH,) if node.volumes else (SCRATCH, contract.data),
        )

    def _addresses(self, topology: Topology) -> dict[tuple[str, str], str]:
        """The steady addresses: (network, node) -> address. Jobs take any: nobody remembers them."""
        networks = _unique(network for node in topology for network in node.networks if network.steady)
        found: dict[tuple[str, str], str] = {}
        for network in networks:
            members = [node.name for node in topology if network in node.networks]
            for number, name in enumerate(members, FIRST_ADDRESS):
                found[network.name, name] = str(self.subnet[number])
        return found

    def digest(self, node: Node, files: Mapping[str, bytes]) -> str:
        """Of the rendered files that the node reads; a container with another one is out of date."""
        parts = [name.encode() + b"\0" + files[f"{self.name}/{name}"] for name in node.files]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a docker-compose.yml was rendered for: the Compose project, and the folder of the stack."""

    stack: str
    project: Path


def origin(file: Path) -> Origin | None:
    """The origin of a rendered docker-compose.yml; None if there is none, or it does not say."""
    try:
        text = file.read_text(encoding="utf-8")
        stack, project = (
            str(json.loads(value)).replace("$$", "$")
            for key in ("name", "  project")
            for value in re.findall(f'^{key}: (".*")$', text, flags=re.MULTILINE)[:1]
        )
    except (OSError, ValueError):
        return None
    return Origin(stack, Path(project))


def _digest(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()


def quoted(value: str | Sequence[str]) -> str:
    """A string, or a list of them, for a Compose file: JSON, which is YAML too, with `$` kept from interpolation."""
    return json.dumps(value).replace("$", "$$")


def _key(source: str) -> str:
    """The name of a rendered file among Compose's `configs`, which takes no slash."""
    return source.replace("/", "-")


def _unique(networks: Iterable[Network]) -> list[Network]:
    return list(dict.fromkeys(networks))
