"""Container images: what we rely on in them, and which set of them a stack uses: official ones, or ones made here.

Nothing here asks a daemon; `imagestore` does.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from shopfds_ops.settings import Images

Kind = Literal["registry", "offline"]
SERVERS = ("postgres", "redis", "rabbitmq")
OFFLINE = "shopfds-offline"
"""First part of the names of images that are made here."""
ARCHIVE_COMPONENTS: Mapping[str, tuple[str, ...]] = {"debian": ("main",), "ubuntu": ("main", "universe")}
RECORD = "x-shopfds"
"""The block of the rendered docker-compose.yml that says which images it was rendered for."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What we rely on in a server's image, official or ours: the ids of its user, and where that user may keep data.

    A new volume takes over the owner of the folder that it is mounted over, so a container without any capability can
    write to it only at the place that the image made for that.
    """

    uid: int
    gid: int
    data: str

    def folder(self, volume: str) -> str:
        """Where the data folder `volume` is mounted: every server has the one called `data`."""
        if volume != "data":
            raise ValueError(f"no folder is known for the volume '{volume}'")
        return self.data


@dataclass(frozen=True, slots=True)
class ImageSet:
    """The images of one stack: server -> reference, and server -> version such as (17,) or (15, 18)."""

    kind: Kind
    references: Mapping[str, str]
    versions: Mapping[str, tuple[int, ...]]

    def contract(self, server: str) -> Contract:
        return contract(server, self.versions[server])


@dataclass(frozen=True, slots=True)
class Release:
    """A release of a distribution of which offline images are made, such as ('debian', 'bookworm')."""

    distribution: str
    suite: str

    @property
    def components(self) -> tuple[str, ...]:
        """The parts of its archive that hold the servers."""
        return ARCHIVE_COMPONENTS[self.distribution]


@dataclass(frozen=True, slots=True)
class Decision:
    """The kind of images that a stack uses, None while that is open, and why, in words."""

    kind: Kind | None
    reason: str


def contract(server: str, version: tuple[int, ...]) -> Contract:
    """The contract of a server's image; the same for both kinds. Raises KeyError for a server that is none of ours."""
    folders = {
        # docker-library/postgres, Dockerfile-debian.template: group and user postgres are 999; the data volume is
        # /var/lib/postgresql/data up to 17, and /var/lib/postgresql from 18 on.
        "postgres": "/var/lib/postgresql" if version >= (18,) else "/var/lib/postgresql/data",
        # redis/docker-library-redis, debian/Dockerfile: group and user redis are 999; /data is theirs, and the volume.
        "redis": "/data",
        # docker-library/rabbitmq, ubuntu/Dockerfile: group and user rabbitmq are 999; RABBITMQ_DATA_DIR,
        # /var/lib/rabbitmq, is theirs, and the volume.
        "rabbitmq": "/var/lib/rabbitmq",
    }
    return Contract(999, 999, folders[server])


def registry(images: Images) -> ImageSet:
    """The official images, as the settings pin them."""
    references = {server: str(getattr(images, server)) for server in SERVERS}
    return ImageSet("registry", references, {server: _tagged(text) for server, text in references.items()})


def recorded(compose_file: Path) -> ImageSet | None:
    """The images that a rendered docker-compose.yml was rendered for; None if there is none, or it does not say."""
    import yaml  # noqa: PLC0415  the local engine needs this module, and never this

    try:
        text = compose_file.read_text(encoding="utf-8")
        # libyaml, where it is there, is eight times as fast.
        record: Any = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))[RECORD]  # noqa: S506
        kind, references, versions = record["images"], record["references"], record["versions"]
        known = ImageSet(
            kind,
            {server: str(references[server]) for server in SERVERS},
            {server: version(versions[server]) for server in SERVERS},
        )
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, yaml.YAMLError):
        return None
    return known if kind in ("registry", "offline") and all(known.versions.values()) else None


def resolve(
    source: Literal["auto", "registry", "offline"],
    *,
    running: Kind | None,
    data: Kind | None,
    present: Collection[Kind],
) -> Decision:
    """Which kind a stack uses: the setting, else what it was made with, else what this machine has.

    `running` is the kind of the stack's containers, `data` that of its data, None where it has none: what one kind made
    is not opened by the other, whose servers have other versions. `present` are the kinds that are complete here.
    """
    if source != "auto":
        return Decision(source, "the setting images.source says so")
    if running is not None:
        return Decision(running, "the containers of this stack are made of them")
    if data is not None:
        return Decision(data, "the data of this stack were made with them")
    if "registry" in present:
        return Decision("registry", "they are here")
    if "offline" in present:
        return Decision("offline", "they are here, and the official ones are not")
    return Decision(None, "no images are here yet")


def without_daemon(images: Images, recorded: ImageSet | None) -> ImageSet:
    """The images to render for where no daemon can be asked what it has."""
    kind = recorded.kind if images.source == "auto" and recorded else images.source
    # The versions of offline images are known only where some were made.
    return recorded if kind == "offline" and recorded and recorded.kind == kind else registry(images)


def offline_references(images: Images) -> dict[str, str]:
    """The names of the images that would be made here: server -> reference. What goes into them is in the name."""
    here = release()
    content = digest(recipe().read_text(), here.suite if here else "", images.mirror or "")
    return {server: f"{OFFLINE}/{server}:{content}" for server in SERVERS}


def recipe() -> Path:
    """The Dockerfile of the offline images: beside the package in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "images" / "Dockerfile"
    return inside if inside.is_file() else package.parent / "images" / "Dockerfile"


@cache
def release() -> Release | None:
    """The release that this machine runs; None where it is not one of Debian or Ubuntu."""
    try:
        found = platform.freedesktop_os_release()
    except OSError:
        return None
    suite = found.get("VERSION_CODENAME")
    return Release(found["ID"], suite) if suite and found["ID"] in ARCHIVE_COMPONENTS else None


def digest(*parts: str) -> str:
    """A short name for content."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def version(text: str) -> tuple[int, ...]:
    """'15.18' -> (15, 18); nothing for a text that is no version."""
    return tuple(int(part) for part in text.split(".")) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})*", text) else ()


def version_text(parts: tuple[int, ...]) -> str:
    """(15, 18) -> '15.18'."""
    return ".".join(str(part) for part in parts)


def _tagged(reference: str) -> tuple[int, ...]:
    """The version that an image's tag names, such as (7, 4)."""
    tag = reference.split("@", maxsplit=1)[0].rpartition(":")[2]
    return tuple(int(part) for part in re.findall(r"\d+", tag.split("-")[0]))
