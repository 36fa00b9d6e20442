"""Which engine runs the stack: the one that the settings name, or the best one that answers; and what each has."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from shopfds_ops.engines import daemon, folders, images
from shopfds_ops.engines.base import Engine
from shopfds_ops.engines.compose import SECRETS, ComposeFiles
from shopfds_ops.engines.daemon import Obstacle
from shopfds_ops.engines.local import LocalEngine
from shopfds_ops.errors import EngineError
from shopfds_ops.render import Source
from shopfds_ops.settings import SECRETS_FILE, Settings
from shopfds_ops.topology import Site, Topology

Name = Literal["docker", "local"]
NAMES: Sequence[Name] = ("docker", "local")
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
    return Choice(_engine(name, project, settings), reason, project, settings)


def _engine(name: Name, project: Path, settings: Settings) -> Engine:
    if name == "local":
        return LocalEngine(project, settings)
    from shopfds_ops.engines.docker import DockerEngine  # noqa: PLC0415  its library takes 0.2 s to load

    return DockerEngine(project, settings)


def pick(project: Path, settings: Settings) -> tuple[Name, str]:
    """The engine's name, and why it is that one. Raises EngineError where `auto` cannot tell."""
    if settings.engine != "auto":
        return settings.engine, "the setting `engine` names it"
    obstacle = daemon.look().obstacle
    local = folders.has_data(folders.data_folder(project, settings))
    if not local and obstacle is None:
        return decide(None, local=False, docker=False)  # whatever Docker has, it is taken
    said = keeps_data(project, settings, "docker")
    docker = _ran_on_docker(project, settings) if said is None else said
    if local and docker and running(project, settings, "local"):
        return "local", "both have data of this stack, and it is the one that runs"
    return decide(daemon.silence() if said is None else obstacle, local=local, docker=docker)


def decide(obstacle: Obstacle | None, *, local: bool, docker: bool) -> tuple[Name, str]:
    """What `auto` takes: Docker where it can be used (no `obstacle`), but nobody's data are left behind by that.

    `local` and `docker` say whether that engine has data of this stack. Where both have, and Docker cannot be used now,
    that is an EngineError: what is asked for by the one must not be answered by the other.
    """
    if obstacle is None:
        if local and not docker:
            return "local", "it has the data of this stack, and Docker has none"
        return "docker", "its daemon answers"
    if local and docker:
        raise EngineError(
            f"both engines have data of this stack, and {obstacle.what}",
            remedy=f"{obstacle.remedy}; or say that you mean the other: `--engine local`",
        )
    if local:
        return "local", "it has the data of this stack"
    if docker:
        return "docker", "this stack was made on it"
    return "local", obstacle.what


# -- what each has -----------------------------------------------------------------------------------------------


def keeps_data(project: Path, settings: Settings, engine: Name) -> bool | None:
    """Whether an engine has data of this stack; None where it may have some, and cannot be asked."""
    if engine == "local":
        return folders.has_data(folders.data_folder(project, settings))
    compose = compose_files(project, settings)
    said = daemon.has_volumes(compose.stack)
    if said is not None:
        return said
    if not compose.folder.exists() and not (project / SECRETS_FILE).exists():
        return False  # nothing was ever done in this project
    may_have = daemon.look().cause != "absent" or _ran_on_docker(project, settings)
    return None if may_have else False


def _ran_on_docker(project: Path, settings: Settings) -> bool:
    """Who cannot ask for volumes sees by the secrets whether this stack ever ran on Docker."""
    return any((compose_files(project, settings).folder / SECRETS).glob("*"))


def left_elsewhere(project: Path, settings: Settings, engine: str) -> bool:
    """Whether the other engine than `engine` has data of this stack, as far as can be seen: they need its secrets."""
    said = keeps_data(project, settings, OTHER[engine])
    return _ran_on_docker(project, settings) if said is None else said


def need_of_secrets(project: Path, settings: Settings, engines: Collection[str]) -> str:
    """Why the secrets must outlive the data of these engines; "" if no other engine has data, or may have."""
    for name in NAMES:
        said = name not in engines and keeps_data(project, settings, name)
        if said is None:
            return f"engine {name} may have data that need them: {daemon.silence().what}"
        if said:
            return f"engine {name} has data that need them"
    return ""


def forget_secret_files(project: Path, settings: Settings) -> None:
    """Remove the secrets that were written for Docker: it would make new data with old ones."""
    shutil.rmtree(compose_files(project, settings).folder / SECRETS, ignore_errors=True)


def all_engines(project: Path, settings: Settings) -> list[Engine]:
    """Every engine, but for one that cannot be asked where it has nothing of this stack.

    Raises EngineError for one that cannot be asked and may have data.
    """
    obstacle = daemon.look().obstacle
    if obstacle is None:
        return [_engine(name, project, settings) for name in NAMES]
    if keeps_data(project, settings, "docker") is not False:
        raise EngineError(f"engine docker may have data of this stack: {obstacle.what}", remedy=obstacle.remedy)
    return [_engine("local", project, settings)]


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
