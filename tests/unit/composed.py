"""The Compose file as it is rendered for several settings and for both kinds of images, for tests to look at."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from shopfds_ops.components.base import Plan
from shopfds_ops.components.registry import COMPONENTS
from shopfds_ops.engines.compose import FILE, ComposeFiles
from shopfds_ops.engines.images import ImageSet, registry
from shopfds_ops.secrets import PURPOSES, Secrets
from shopfds_ops.settings import Configuration, Images, Settings
from shopfds_ops.stack import Stack
from shopfds_ops.topology import Node, Topology

VARIANTS: Mapping[str, dict[str, Any]] = {
    "defaults": {},
    "other": {
        "project": "second-shop",
        "bind": "127.0.0.2",
        "ports": {"offset": 1300},
        "docker": {"name": "another_one", "subnet": "192.168.77.0/24"},
        "postgres": {"database": "shop_two", "max_connections": 50, "memory": 300, "heartbeat_seconds": 2},
        "redis": {"maxmemory": "100MB", "memory": 200, "node_timeout_ms": 2000},
        "rabbitmq": {"vhost": "other", "user": "somebody", "memory": 512},
    },
}
IMAGES: Mapping[str, ImageSet] = {
    "registry": registry(Images()),
    "pinned": registry(
        Images(postgres="mirror.example:5000/postgres:18.1-bookworm", redis=f"redis:8.0.1@sha256:{'0f' * 32}")
    ),
    "offline": ImageSet(
        "offline",
        {
            "postgres": "shopfds-offline/postgres:1",
            "redis": "shopfds-offline/redis:1",
            "rabbitmq": "shopfds-offline/r:1",
        },
        {"postgres": (15, 18), "redis": (7, 0, 15), "rabbitmq": (3, 10, 8)},
    ),
}
CASES = tuple(f"{variant}-{kind}" for variant, kind in itertools.product(VARIANTS, IMAGES))
PASSWORDS = Secrets({name: f"secret+Value/of-{name.lower()}" for name in PURPOSES})


@dataclass(frozen=True)
class Composed:
    """One stack as it would be on Docker: nothing runs, everything is rendered."""

    settings: Settings
    place: ComposeFiles
    topology: Topology
    files: Mapping[str, str]
    """Rendered files, by their names below the Compose file's folder."""

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Whatever is a service: the nodes and the jobs."""
        return (*self.topology, *self.topology.jobs)

    @cached_property
    def secret_files(self) -> Mapping[str, str]:
        """Their contents, by name."""
        plan = Plan(self.settings, self.place.site)
        found = [component.secret_files(plan, PASSWORDS) for component in COMPONENTS]
        return {name: content for contents in found for name, content in contents.items()}

    @cached_property
    def document(self) -> Any:
        """The file as Compose reads it: `$$` is one dollar, and no other dollar is there."""
        return _interpolated(yaml.safe_load(self.files[FILE]))

    @property
    def services(self) -> Mapping[str, Any]:
        return dict(self.document["services"])

    def pairs(self) -> Iterator[tuple[Node, Any]]:
        """Every node or job, and its service."""
        return ((node, self.services[node.name]) for node in self.nodes)


def compose(case: str, project: Path) -> Composed:
    """What is rendered for one of CASES into the folder `project`, which is not touched."""
    variant, _, kind = case.partition("-")
    return composed(Settings.model_validate(VARIANTS[variant]), IMAGES[kind], project)


def composed(settings: Settings, images: ImageSet, project: Path) -> Composed:
    """What is rendered for these settings and images."""
    place = ComposeFiles(project, settings, images)
    stack = Stack(Configuration(project, settings, {}))
    stack.__dict__["choice"] = SimpleNamespace(layouts=(place,))
    plan = Plan(settings, place.site)
    topology = Topology(
        tuple(node for component in COMPONENTS for node in component.nodes(plan)),
        tuple(job for component in COMPONENTS for job in component.jobs(plan)),
    )
    files = {path.removeprefix("docker/"): content.decode() for path, content in stack.rendered().items()}
    return Composed(settings, place, topology, files)


def _interpolated(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _interpolated(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_interpolated(item) for item in value]
    if not isinstance(value, str):
        return value
    assert "$" not in value.replace("$$", ""), f"Compose would take a variable from the environment: {value}"
    return value.replace("$$", "$")
