"""Which engine runs the stack: the one that the settings name, or the best one that answers."""

from __future__ import annotations

from pathlib import Path

from shopfds_ops.engines.base import Engine
from shopfds_ops.engines.local import LocalEngine
from shopfds_ops.errors import EngineError
from shopfds_ops.settings import Settings


def choose(project: Path, settings: Settings) -> Engine:
    """The engine for this project. `auto` means local: it is the only engine of this version."""
    if settings.engine == "docker":
        raise EngineError(
            "engine 'docker' is not part of this version",
            remedy="`shopfds config set engine auto`, or SHOPFDS_ENGINE=local, takes the local one",
        )
    return LocalEngine(project, settings)
