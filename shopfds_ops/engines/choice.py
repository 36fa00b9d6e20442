"""Which engine runs the stack: the one that the settings name, or the best one that answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from shopfds_ops.engines import daemon, folders, images
from shopfds_ops.engines.base import Engine
from shopfds_ops.engines.compose import SECRETS, ComposeFiles
from shopfds_ops.engines.local import LocalEngine
from shopfds_ops.errors import EngineError
from shopfds_ops.render import Source
from shopfds_ops.settings import Settings
from shopfds_ops.topology import Site, Topology

Name = Literal["docker", "local"]
OTHER: Mapping[str, Name] = {"docker": "local", "local": "docker"}


class Layout(Protocol):
    """Something for which files are rendered: an engine, or Docker where another engine runs the stack."""

    @property
    def site(self) -> Site: ...
    def sources(self, topology: Topology, files: Mapping[str, bytes]) -> Sequence[Source]: ...


@dataclass(frozen=True)
class Choice:
    """The engine that runs the stack, and why it does."""

    engine: Engine
    reason: str
    project: Path
    settings: Settings

    @cached_property
    def layouts(self) -> Sequence[Layout]:
        """For what files are rendered: for the engine, and for Docker in any case."""
        if self.engine.name == "docker":
            return (self.engine,)
        recorded = images.recorded(compose_files(self.project, self.settings).file)
        known = images.without_daemon(self.settings.images, recorded)
        return (ComposeFiles(self.project, self.settings, known), self.engine)


def choose(project: Path, settings: Settings) -> Choice:
    """The engine for this project."""
    name, reason = pick(project, settings)
    if name == "local":
        return Choice(LocalEngine(project, settings), reason, project, settings)
    from shopfds_ops.engines.docker import DockerEngine  # noqa: PLC0415  its library takes 0.2 s to load

    return Choice(DockerEngine(project, settings), reason, project, settings)


def pick(project: Path, settings: Settings) -> tuple[Name, str]:
    """The engine's name, and why it is that one."""
    if settings.engine != "auto":
        return settings.engine, "the setting `engine` names it"
    obstacle = daemon.look().obstacle
    local = folders.has_data(folders.data_folder(project, settings))
    compose = compose_files(project, settings)
    docker = _ran_on_docker(compose) if obstacle else local and daemon.has_volumes(compose.stack)
    return decide(obstacle.what if obstacle else "", local=local, docker=docker)


def left_elsewhere(project: Path, settings: Settings, engine: str) -> bool:
    """Whether another engine than `engine` has data of this stack, or may have: they need the same secrets."""
    if engine == "docker":
        return folders.has_data(folders.data_folder(project, settings))
    compose = compose_files(project, settings)
    return daemon.has_volumes(compose.stack) if daemon.look().obstacle is None else _ran_on_docker(compose)


def _ran_on_docker(compose: ComposeFiles) -> bool:
    """Who cannot ask for volumes sees by the secrets whether this stack ever ran on Docker."""
    return any((compose.folder / SECRETS).glob("*"))


def decide(obstacle: str, *, local: bool, docker: bool) -> tuple[Name, str]:
    """What `auto` takes: Docker where it can be used (no `obstacle`), but nobody's data are left behind by that.

    `local` and `docker` say whether that engine has data of this stack.
    """
    if local and not docker:
        return "local", "it has the data of this stack, and Docker has none"
    if not obstacle:
        return "docker", "its daemon answers"
    if docker and not local:
        return "docker", "this stack was made on it"
    return "local", obstacle


def running(project: Path, settings: Settings, engine: str) -> list[str]:
    """The nodes of this stack that `engine` runs now, chosen or not; none where it does not say."""
    if engine == "docker":
        return daemon.running(compose_files(project, settings).stack)
    if not folders.data_folder(project, settings).exists():
        return []
    with suppress(EngineError):
        states = LocalEngine(project, settings).states()
        return sorted(name for name, state in states.items() if state.state not in ("stopped", "failed"))
    return []


def compose_files(project: Path, settings: Settings) -> ComposeFiles:
    """What is rendered for Docker, whether it runs the stack or not."""
    return ComposeFiles(project, settings, images.registry(settings.images))
