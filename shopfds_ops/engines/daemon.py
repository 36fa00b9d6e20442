"""Docker as this machine has it: whether its daemon and Compose can be used and why not, and what runs there.

The docker command is asked, never a socket: it knows of DOCKER_HOST, contexts and credentials.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from shopfds_ops.engines.compose import NODE_LABEL
from shopfds_ops.errors import EngineError

OLDEST_ENGINE = (20, 10)
"""The first that limits containers under cgroup v2 too, and the oldest that was tried."""
OLDEST_COMPOSE = (2, 20)
"""Everything that is rendered is older: `name`, `configs` and `secrets` from files, conditions of `depends_on`."""
PATIENCE = 5.0
"""Seconds in which a daemon that is well answers, on a machine that is busy too."""
SETUP = "`shopfds --engine docker setup`"
OWN_SOCKET = "unix:///var/run/docker.sock"
STACK_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
FOLDER_LABEL = "com.docker.compose.project.working_dir"

REMOTE = re.compile(r"(tcp|ssh):(?!//([^@/]*@)?(127\.[\d.]+|localhost|\[::1\]|)(:|/|$))")
"""The beginning of an address of a daemon that is not on this machine."""

Cause = Literal["absent", "remote", "down", "hangs", "forbidden", "old", "compose absent", "compose old"]
OF_COMPOSE: Collection[Cause] = ("compose absent", "compose old")
"""What keeps from running a stack, and from nothing that is asked of the daemon alone."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why Docker cannot be used, and what to do about it."""

    cause: Cause
    what: str
    remedy: str

    def error(self) -> EngineError:
        return EngineError(self.what, remedy=self.remedy)


@dataclass(frozen=True, slots=True)
class Look:
    """What was found: the versions of the daemon, of its API and of Compose ("" if unknown), and the first obstacle."""

    engine: str = ""
    api: str = ""
    compose: str = ""
    obstacle: Obstacle | None = None
    elsewhere: str = ""
    """What names another daemon than this machine's own one, which we may install and start."""

    @property
    def cause(self) -> Cause | None:
        return self.obstacle.cause if self.obstacle else None

    @property
    def daemon_obstacle(self) -> Obstacle | None:
        """The obstacle, unless it is one of Compose alone."""
        return None if self.cause in OF_COMPOSE else self.obstacle

    @property
    def text(self) -> str:
        """The versions that are known, for people."""
        known = (("Docker Engine", self.engine), ("Compose", self.compose))
        return ", ".join(f"{name} {version}" for name, version in known if version)


@functools.cache
def look() -> Look:
    """Ask the daemon and Compose, both at once, within PATIENCE. Asked once in a process: see `forget`."""
    program = shutil.which("docker")
    if program is None:
        what = "Docker is not installed (no 'docker' found)"
        return Look(obstacle=Obstacle("absent", what, f"{SETUP} installs it on Debian and Ubuntu"))
    host = os.environ.get("DOCKER_HOST", "")
    if obstacle := _remote_obstacle(f"DOCKER_HOST={host}", host, "unset DOCKER_HOST"):
        return Look(obstacle=obstacle, elsewhere="DOCKER_HOST")
    deadline = time.monotonic() + PATIENCE
    version = _begin(program, "version", "--format", "{{json .}}")
    compose = _begin(program, "compose", "version", "--short")
    answer, plugin = _end(version, deadline), _end(compose, deadline)
    said = _parsed(answer)
    found, elsewhere = said.get("Server", {}), _elsewhere(said.get("Client", {}))
    if not host and (answer is None or elsewhere) and (obstacle := _context_obstacle()):
        return Look(obstacle=obstacle, elsewhere=elsewhere)
    short = plugin.stdout.strip().removeprefix("v") if plugin and plugin.returncode == 0 else ""
    engine, api = str(found.get("Version", "")), str(found.get("ApiVersion", ""))
    obstacle = _daemon_obstacle(answer, engine, elsewhere) or compose_obstacle(short)
    return Look(engine, api, short, obstacle, elsewhere)


def forget() -> None:
    """What was seen is no longer so: look again when asked again."""
    look.cache_clear()


def require() -> Look:
    """Raise EngineError for the first thing that keeps Docker from being used."""
    found = look()
    if found.obstacle is not None:
        raise found.obstacle.error()
    return found


def silence() -> Obstacle:
    """Why a daemon was asked for something and did not say it."""
    return look().daemon_obstacle or _hangs()


def compose_obstacle(version: str) -> Obstacle | None:
    """What is wrong with this version of Compose ("": there is none)."""
    if not version:
        return Obstacle("compose absent", "Docker has no Compose (`docker compose` fails)", f"{SETUP} links one")
    if _older(version, OLDEST_COMPOSE):
        what = f"Docker Compose {version} is older than {_text(OLDEST_COMPOSE)}"
        return Obstacle("compose old", what, f"{SETUP} links a newer one")
    return None


# -- what runs ---------------------------------------------------------------------------------------------------


def running(stack: str) -> list[str]:
    """The nodes that run in our containers of the Compose project `stack`; none where Docker does not say."""
    template = f'{{{{.Label "{SERVICE_LABEL}"}}}}'
    return sorted(_ask("ps", *_ours(stack), "--format", template) or ())


def has_volumes(stack: str) -> bool | None:
    """Whether Docker keeps volumes of ours of the Compose project `stack`; None where it does not say."""
    if not look().engine:
        return None
    names = _ask("volume", "ls", "--quiet", *_ours(stack))
    return None if names is None else bool(names)


def _ours(stack: str) -> tuple[str, ...]:
    """Somebody else's project may have the same name."""
    return "--filter", f"label={STACK_LABEL}={stack}", "--filter", f"label={NODE_LABEL}"


def container_at(port: int) -> str | None:
    """The container that is reached at a port of this machine, if there is one: its name, and whose it is."""
    template = f'{{{{.Names}}}}{{{{with .Label "{FOLDER_LABEL}"}}}} of the stack in {{{{.}}}}{{{{end}}}}'
    return next(iter(_ask("ps", "--filter", f"publish={port}", "--format", template) or ()), None)


# -- asking ------------------------------------------------------------------------------------------------------


def _begin(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[str], deadline: float) -> subprocess.CompletedProcess[str] | None:
    """The answer; None if it has not come until then."""
    try:
        stdout, stderr = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # plugins are children of the docker command
        process.communicate()
        return None
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def _ask(*arguments: str) -> list[str] | None:
    """The lines that a docker command prints; None if it fails."""
    program = shutil.which("docker")
    done = _end(_begin(program, *arguments), time.monotonic() + PATIENCE) if program else None
    return done.stdout.splitlines() if done and done.returncode == 0 else None


def _parsed(answer: subprocess.CompletedProcess[str] | None) -> dict[str, dict[str, Any]]:
    """The parts of `docker version` that are there: Client, Server."""
    try:
        said = json.loads(answer.stdout) if answer else None
    except ValueError:
        return {}
    return {name: part for name, part in said.items() if isinstance(part, dict)} if isinstance(said, dict) else {}


def _elsewhere(client: Mapping[str, Any]) -> str:
    if os.environ.get("DOCKER_HOST", "") not in ("", OWN_SOCKET):
        return "DOCKER_HOST"
    return "the context (`docker context`)" if client.get("Context", "default") != "default" else ""


def _context_obstacle() -> Obstacle | None:
    """What is wrong with the address that the context in use names."""
    said = _ask("context", "inspect", "--format", "{{.Name}} {{.Endpoints.docker.Host}}") or [""]
    name, _, address = said[0].partition(" ")
    return _remote_obstacle(
        f"the Docker context {name} ({address})",
        address,
        "unset DOCKER_CONTEXT" if os.environ.get("DOCKER_CONTEXT") else "`docker context use default`",
    )


def _remote_obstacle(named: str, address: str, remedy: str) -> Obstacle | None:
    """What is wrong with an address of the daemon, and with whatever names it."""
    if not REMOTE.match(address):
        return None
    what = f"{named} is another machine: containers there cannot mount the files rendered here"
    return Obstacle("remote", what, f"{remedy}, or run shopfds there")


def _hangs() -> Obstacle:
    what = f"Docker's daemon does not answer within {PATIENCE:.0f} s"
    return Obstacle("hangs", what, "see what it is busy with, or restart it")


def _daemon_obstacle(answer: subprocess.CompletedProcess[str] | None, engine: str, elsewhere: str) -> Obstacle | None:
    if answer is None:
        return _hangs()
    said = " ".join(answer.stderr.split())
    if "permission denied" in said:
        remedy = "`sudo usermod -aG docker $USER`, then log in again; or run this command by sudo"
        if elsewhere:
            remedy = f"get access to it, or correct {elsewhere}"
        return Obstacle("forbidden", "you may not use Docker's daemon: its socket is closed to you", remedy)
    if match := re.search(r"client version .* is too (old|new).*", said):
        return Obstacle("old", f"Docker's daemon refuses the docker command: {match[0]}", "update the older of both")
    if answer.returncode != 0 or not engine:
        remedy = f"start it, or correct {elsewhere}" if elsewhere else f"{SETUP} starts it"
        nobody = re.match(r"Cannot connect to the Docker daemon( at \S+)\.", said)
        why = nobody[1] if nobody else f": {said or 'it names no version'}"
        return Obstacle("down", f"Docker's daemon does not answer{why}", remedy)
    if _older(engine, OLDEST_ENGINE):
        what = f"Docker Engine {engine} is older than {_text(OLDEST_ENGINE)}"
        return Obstacle("old", what, "update it, or take the local engine: `shopfds config set engine local`")
    return None


def _older(version: str, oldest: tuple[int, int]) -> bool:
    """Whether it is; a version without numbers, such as that of somebody's own build, is not."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return match is not None and (int(match[1]), int(match[2])) < oldest


def _text(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
