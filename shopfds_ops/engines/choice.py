"""Which engine runs the stack: the one that the settings name, or the best one that answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shopfds_ops.engines import images
from shopfds_ops.engines.base import Engine
from shopfds_ops.engines.compose import ComposeFiles
from shopfds_ops.engines.local import LocalEngine
from shopfds_ops.errors import EngineError
from shopfds_ops.render import Source
from shopfds_ops.settings import Settings
from shopfds_ops.topology import Site, Topology


class Layout(Protocol):
    """Something for which files are rendered: an engine, or Docker where another engine runs the stack."""

    @property
    def site(self) -> Site: ...
    def sources(self, topology: Topology, files: Mapping[str, bytes]) -> Sequence[Source]: ...


@dataclass(frozen=True)
class Choice:
    """The engine that runs the stack, why it does, and what else is rendered."""

    engine: Engine
    reason: str
    layouts: Sequence[Layout]


def choose(project: Path, settings: Settings) -> Choice:
    """The engine for this project."""
    if settings.engine == "docker":
        raise EngineError(
            "engine 'docker' is not part of this version",
            remedy="`shopfds config set engine auto`, or SHOPFDS_ENGINE=local, takes the local one",
        )
    local = LocalEngine(project, settings)
    compose = ComposeFiles(project, settings, images.registry(settings.images))
    return Choice(local, "the setting says so", (compose, local))
