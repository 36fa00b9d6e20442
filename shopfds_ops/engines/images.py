"""Container images: what we rely on in them, and which set of them a stack uses: official ones, or ones made here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from shopfds_ops.settings import Images

Kind = Literal["registry", "offline"]
SERVERS = ("postgres", "redis", "rabbitmq")


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


def contract(server: str, version: tuple[int, ...]) -> Contract:
    """The contract of a server's image; the same for both kinds."""
    if server == "postgres":
        # docker-library/postgres, Dockerfile-debian.template: `groupadd -r postgres --gid=999`, `useradd ... --uid=999`;
        # up to 17 `VOLUME /var/lib/postgresql/data`, from 18 on `VOLUME /var/lib/postgresql`.
        return Contract(999, 999, "/var/lib/postgresql" if version >= (18,) else "/var/lib/postgresql/data")
    if server == "redis":
        # docker-library/redis, debian/Dockerfile: `groupadd -r -g 999 redis && useradd -r -g redis -u 999 redis`,
        # `mkdir /data && chown redis:redis /data`, `VOLUME /data`.
        return Contract(999, 999, "/data")
    # docker-library/rabbitmq, ubuntu/Dockerfile: `groupadd --gid 999 --system rabbitmq`, `useradd --uid 999 ...`,
    # `ENV RABBITMQ_DATA_DIR /var/lib/rabbitmq`, `VOLUME $RABBITMQ_DATA_DIR`.
    return Contract(999, 999, "/var/lib/rabbitmq")


def registry(images: Images) -> ImageSet:
    """The official images, as the settings pin them."""
    references = {server: str(getattr(images, server)) for server in SERVERS}
    return ImageSet("registry", references, {server: _version(text) for server, text in references.items()})


def _version(reference: str) -> tuple[int, ...]:
    """The version that an image's tag names, such as (7, 4)."""
    tag = reference.split("@", maxsplit=1)[0].rpartition(":")[2]
    return tuple(int(part) for part in re.findall(r"\d+", tag.split("-")[0]))
