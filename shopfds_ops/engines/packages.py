"""The servers that this machine's distribution provides: which are installed, where, in which version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shopfds_ops.errors import EngineError

DEBIAN_PACKAGES: Mapping[str, str] = {
    "postgres": "postgresql",
    "redis": "redis-server",
    "rabbitmq": "rabbitmq-server",
}


@dataclass(frozen=True, slots=True)
class Requirement:
    """A server we run: the program that is it, the oldest version we support, the newest one we tried (major)."""

    server: str
    title: str
    program: str
    oldest: tuple[int, ...]
    newest_tried: int


REQUIREMENTS = (
    Requirement("postgres", "PostgreSQL", "postgres", (14,), 17),
    Requirement("redis", "Redis", "redis-server", (6, 2), 8),
    Requirement("rabbitmq", "RabbitMQ", "rabbitmq-server", (3, 9, 4), 4),
)


@dataclass(frozen=True, slots=True)
class Installed:
    """A server that is there: `folder` holds its programs."""

    server: str
    version: tuple[int, ...]
    folder: Path

    @property
    def text(self) -> str:
        return ".".join(str(part) for part in self.version)


def find(postgres_major: int | None = None) -> dict[str, Installed]:
    """The servers installed here, by name. Of several PostgreSQL majors the newest one that we tried is taken, or the
    one that existing data need (`postgres_major`)."""
    found: dict[str, Installed] = {}
    for requirement in REQUIREMENTS:
        candidates = [
            Installed(requirement.server, version, folder)
            for folder in _folders(requirement)
            if (version := _version(requirement, folder)) is not None
        ]
        if requirement.server == "postgres" and postgres_major is not None:
            candidates = [candidate for candidate in candidates if candidate.version[0] == postgres_major]
        tried = [item for item in candidates if item.version[0] <= requirement.newest_tried]
        best = max(tried or candidates, key=lambda item: item.version, default=None)
        if best is not None:
            found[requirement.server] = best
    return found


def major_of_data(volumes: Path) -> int | None:
    """The PostgreSQL major that existing data were made with; None if there are none, or we may not look."""
    for file in sorted(volumes.glob("*/*/pgdata/PG_VERSION")):
        if os.access(file, os.R_OK):
            return int(file.read_text().strip())
    return None


def missing(found: Mapping[str, Installed]) -> list[str]:
    """What keeps the local engine from running: one sentence for each server that is absent or too old."""
    sentences = []
    for requirement in REQUIREMENTS:
        oldest = ".".join(str(part) for part in requirement.oldest)
        if requirement.server not in found:
            sentences.append(
                f"{requirement.title} {oldest} or newer is not installed (no '{requirement.program}' found)"
            )
        elif found[requirement.server].version < requirement.oldest:
            sentences.append(f"{requirement.title} {found[requirement.server].text} is older than {oldest}")
    return sentences


def install() -> list[str]:
    """Install what is missing from the distribution (Debian, Ubuntu); returns the packages that were installed.

    The packages' own service instances are not started. Raises EngineError where we cannot install.
    """
    absent = missing(find())
    if not absent:
        return []
    names = sorted({DEBIAN_PACKAGES[item.server] for item in REQUIREMENTS})
    apt_install(names, "; ".join(absent))
    absent = missing(find())
    if absent:
        raise EngineError("; ".join(absent), remedy="this distribution is too old for the local engine: use Docker")
    return names


def apt_install(names: Sequence[str], lacking: str) -> None:
    """Install packages of the distribution (Debian, Ubuntu); the services that come with them are not started.

    `lacking` says what they are for. Raises EngineError where we cannot install.
    """
    if shutil.which("apt-get") is None:
        wanted = " ".join(names)
        raise EngineError(lacking, remedy=f"install it with your system's package manager (Debian: {wanted})")
    prefix = as_root(f"installing {', '.join(names)}", f"apt-get install {' '.join(names)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with _services_held_back(prefix):
        for argv in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *names],
        ):
            done = subprocess.run([*prefix, *argv], env=environment, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise EngineError(
                    f"`{' '.join(argv)}` failed with exit status {done.returncode}",
                    remedy="run it by hand to see why",
                    details=(done.stderr or done.stdout)[-2000:],
                )


def as_root(what: str, command: str) -> list[str]:
    """What goes before a command that needs root: nothing, or sudo.

    Raises EngineError that says `what` needs root, and which command does it, where there is no sudo.
    """
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        raise EngineError(f"{what} needs root", remedy=f"as root: {command}")
    return ["sudo"]


@contextmanager
def _services_held_back(prefix: list[str]) -> Iterator[None]:
    """Debian starts a server when its package is installed, unless this file, which invoke-rc.d asks, says no."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    script = "#!/bin/sh\nexit 101\n"
    subprocess.run([*prefix, "tee", str(policy)], input=script, text=True, stdout=subprocess.DEVNULL, check=True)
    subprocess.run([*prefix, "chmod", "755", str(policy)], check=True)
    try:
        yield
    finally:
        subprocess.run([*prefix, "rm", "-f", str(policy)], check=True)


def _folders(requirement: Requirement) -> Iterator[Path]:
    """Folders that hold the program itself, not a wrapper of the distribution that uses its own set-up."""
    places = {
        "postgres": [*sorted(Path("/usr/lib/postgresql").glob("*/bin")), Path("/usr/local/pgsql/bin")],
        "redis": [],
        "rabbitmq": [Path("/usr/lib/rabbitmq/bin"), Path("/opt/rabbitmq/sbin")],
    }[requirement.server]
    on_path = [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    fallback = [Path("/usr/local/bin"), Path("/usr/bin"), Path("/opt/homebrew/bin")]
    found = [place for place in places if os.access(place / requirement.program, os.X_OK)]
    if not found:
        found = [place for place in [*on_path, *fallback] if os.access(place / requirement.program, os.X_OK)][:1]
    yield from found


def _version(requirement: Requirement, folder: Path) -> tuple[int, ...] | None:
    if requirement.server == "rabbitmq":
        # Asking rabbitmqctl boots Erlang (2 s); the library's folder carries the version.
        names = [path.name for path in (folder.resolve().parent / "lib").glob("rabbitmq_server-*")]
        names += [folder.resolve().parent.name]
        text = " ".join(sorted(names))
        if not re.search(r"\d+\.\d+", text):
            text = _output([str(folder / "rabbitmqctl"), "version"])
    else:
        text = _output([str(folder / requirement.program), "--version"])
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in match.groups() if part) if match else None


def _output(argv: list[str]) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
