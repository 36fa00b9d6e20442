"""Typed settings: defaults < shopfds.toml < SHOPFDS_* environment < flags. Every fact stands here once."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomlkit
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)
from tomlkit.exceptions import ParseError

from shopfds_ops.errors import ConfigError, UnknownNameError
from shopfds_ops.files import write_atomically

CONFIG_FILE = "shopfds.toml"
SECRETS_FILE = ".env"
INFRASTRUCTURE = "infrastructure"
DATA_FOLDER = ".shopfds"
ENV_PREFIX = "SHOPFDS_"
MANIFEST = ".manifest.json"
PROJECT_VARIABLE = "SHOPFDS_PROJECT_DIR"
NODE_VARIABLE = "SHOPFDS_NODE"
STACK_VARIABLE = "SHOPFDS_STACK"
VOLUMES = "volumes"
OWN_VARIABLES = frozenset({PROJECT_VARIABLE, NODE_VARIABLE, STACK_VARIABLE})
REDIS_NODES = 6
SMALLEST_MAXMEMORY = 16
"""MB: below, a node has no room for its own buffers."""
REDIS_BUS_OFFSET = 10000

Origin = Literal["default", "file", "environment", "flag"]


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]*(kB|MB|GB)", text):
        raise ValueError("a size is written like 512MB or 2GB")
    return text


def _address(text: str) -> str:
    return str(ipaddress.IPv4Address(text))


def _mebibytes(size: str) -> float:
    return int(size[:-2]) * {"kB": 1 / 1024, "MB": 1, "GB": 1024}[size[-2:]]


def _database(text: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", text) or text in ("postgres", "template0", "template1"):
        raise ValueError("a name of lower-case letters, digits and underscores that PostgreSQL does not use itself")
    return text


def _network(text: str) -> str:
    network = ipaddress.IPv4Network(text)
    if network.prefixlen != 24 or not network.is_private:
        raise ValueError("a private IPv4 network is written like 10.201.7.0/24")
    return str(network)


def _reference(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._/:-]*:v?[0-9]+[A-Za-z0-9._-]*(@sha256:[0-9a-f]{64})?", text):
        raise ValueError("an image is named with its version, like redis:7.4, or redis:7.4@sha256:...")
    if "alpine" in text:
        raise ValueError("the Alpine variants have other users and folders: take the Debian one, like redis:7.4")
    return text


Network = Annotated[str, AfterValidator(_network)]
ImageReference = Annotated[str, AfterValidator(_reference)]
DatabaseName = Annotated[str, AfterValidator(_database)]
Size = Annotated[str, AfterValidator(_size)]
Address = Annotated[str, AfterValidator(_address)]
PortNumber = Annotated[int, Field(ge=1024, le=65535)]


class Section(BaseModel):
    """A table of shopfds.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Ports(Section):
    """Ports on this machine. PostgreSQL and RabbitMQ use the well-known ones plus 100, so that the servers of the
    distribution, which own the well-known ones, stay undisturbed. `offset` moves all of them at once."""

    offset: int = Field(0, ge=0, le=40000, description="added to every port: run a second stack beside the first")
    postgres_primary: PortNumber = 5532
    postgres_replica: PortNumber = 5533
    redis: PortNumber = Field(7000, description="the first of six; the cluster bus uses these plus 10000")
    rabbitmq: PortNumber = 5772
    rabbitmq_management: PortNumber = 15772
    rabbitmq_prometheus: PortNumber = 15792
    rabbitmq_distribution: PortNumber = 25772
    rabbitmq_epmd: PortNumber = 4469

    def at(self, name: str, index: int = 0) -> int:
        """The port called `name`, moved by the offset (and by `index` where there are several)."""
        return int(getattr(self, name)) + index + self.offset

    def numbers(self) -> Iterator[tuple[str, int]]:
        """Every port that the stack takes, by its setting's name."""
        for name in type(self).model_fields:
            if name == "redis":
                for index in range(REDIS_NODES):
                    yield name, self.at(name, index)
                    yield name, self.at(name, index) + REDIS_BUS_OFFSET
            elif name != "offset":
                yield name, self.at(name)


class Postgres(Section):
    """PostgreSQL: one primary, one hot-standby replica."""

    database: DatabaseName = "shopfds"
    max_connections: int = Field(100, ge=20, le=2000)
    shared_buffers: Size = "128MB"
    max_wal_senders: int = Field(5, ge=2, le=50)
    wal_keep_size: Size = "64MB"
    max_slot_wal_keep_size: Size = Field("1GB", description="WAL that a dead replica may hold on the primary")
    lag_limit_seconds: float = Field(10.0, gt=0, description="replay lag over which the replica is not healthy")
    heartbeat_seconds: int = Field(1, ge=1, le=60, description="how often the heartbeat row is written")
    memory: int = Field(1024, ge=128, description="MiB each node may use")


class Redis(Section):
    """Redis Cluster: six nodes, three masters with a replica each."""

    node_timeout_ms: int = Field(5000, ge=500, le=60000, description="silence after which a node counts as failed")
    maxmemory: Size = "256MB"
    memory: int = Field(384, ge=64, description="MiB each node may use")


class RabbitMQ(Section):
    """RabbitMQ: one broker, quorum queues."""

    vhost: str = Field("shopfds", pattern=r"^[A-Za-z0-9_.-]+$")
    user: str = Field("shopfds", pattern=r"^[A-Za-z0-9_.-]+$")
    delivery_limit: int = Field(20, ge=1, le=1000, description="deliveries after which a message is dead-lettered")
    memory: int = Field(1024, ge=256, description="MiB the broker may use")


class Docker(Section):
    """The docker engine."""

    name: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$",
        description="Compose project, and first part of the volumes' names; made of project and folder if not set",
    )
    subnet: Network | None = Field(
        None, description="IPv4 /24 in which the Redis nodes keep their addresses; made of the name if not set"
    )


class Images(Section):
    """Container images of the docker engine, with their versions. A digest may follow: `redis:7.4@sha256:...`."""

    source: Literal["auto", "registry", "offline"] = Field(
        "auto", description="official images, or those that `shopfds images build` makes here"
    )
    mirror: str | None = Field(None, description="where `images build` gets packages from; the system's own if not set")
    postgres: ImageReference = "postgres:17"
    redis: ImageReference = "redis:7.4"
    rabbitmq: ImageReference = "rabbitmq:4.1"


class Seed(Section):
    """Sizes of the seeded data set at scale 1."""

    users: int = Field(1000, ge=1)
    products: int = Field(500, ge=1)
    orders: int = Field(10000, ge=0)
    reviews: int = Field(5000, ge=0)
    rng_seed: int = Field(42, ge=0)


class Settings(BaseSettings):
    """All settings of one project. Frozen: a command reads them once, by `load`, which merges the layers."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", env_ignore_empty=True, extra="forbid", frozen=True
    )

    project: str = Field("shopfds", pattern=r"^[a-z][a-z0-9-]{0,30}$", description="the name of the stack")
    engine: Literal["auto", "docker", "local"] = Field("auto", description="what runs the nodes")
    data: Path | None = Field(None, description="where the local engine keeps data; chosen by the engine if not set")
    bind: Address = Field("127.0.0.1", description="the IPv4 address on which the stack's ports are reached")
    timeout: float = Field(120.0, gt=0, description="seconds `up` waits for the whole stack")
    ports: Ports = Ports()
    postgres: Postgres = Postgres()
    redis: Redis = Redis()
    rabbitmq: RabbitMQ = RabbitMQ()
    docker: Docker = Docker()
    images: Images = Images()
    seed: Seed = Seed()

    @model_validator(mode="after")
    def _memory_suffices(self) -> Self:
        if _mebibytes(self.redis.maxmemory) < SMALLEST_MAXMEMORY:
            raise ValueError(f"redis.maxmemory = {self.redis.maxmemory}: a node needs {SMALLEST_MAXMEMORY}MB at least")
        for name, part, limit in (
            ("redis.maxmemory", self.redis.maxmemory, self.redis.memory),
            ("postgres.shared_buffers", self.postgres.shared_buffers, self.postgres.memory),
        ):
            if _mebibytes(part) >= limit:
                raise ValueError(f"{name} = {part} does not fit into {name.split('.')[0]}.memory = {limit} MiB")
        return self

    @model_validator(mode="after")
    def _ports_do_not_meet(self) -> Self:
        used: dict[int, str] = {}
        for name, number in self.ports.numbers():
            if number > 65535:
                raise ValueError(f"ports.{name} with ports.offset is {number}: over 65535")
            if number in used:
                raise ValueError(f"ports.{name} and ports.{used[number]} are both {number}")
            used[number] = name
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # `load` reads the other layers itself, to know where each value came from


@dataclass(frozen=True)
class Configuration:
    """The settings of a project, and where each value came from."""

    project: Path
    settings: Settings
    origins: Mapping[str, Origin]

    @property
    def file(self) -> Path:
        return self.project / CONFIG_FILE

    def entries(self) -> Iterator[tuple[str, Any, Origin]]:
        """Every dotted key with its value and origin, in the order of the model."""
        for key, value in _flatten(self.settings.model_dump(mode="json")).items():
            yield key, value, self.origins.get(key, "default")


def find_project(start: Path | None = None) -> Path:
    """The project folder: $SHOPFDS_PROJECT_DIR, else the nearest folder upwards that was used as one, else the
    source checkout this package runs from, else the working directory."""
    named = os.environ.get(PROJECT_VARIABLE)
    if named:
        folder = Path(named)
        if not folder.is_dir():
            raise ConfigError(
                f"{PROJECT_VARIABLE} names {named}, which is not a folder", remedy="create it, or unset it"
            )
        return folder.resolve()
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        used = (folder / CONFIG_FILE).is_file() or (folder / INFRASTRUCTURE / MANIFEST).is_file()
        if used or (folder / "shopfds_ops" / "settings.py").is_file():  # the latter is another checkout
            return folder
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else here


def load(project: Path, flags: Mapping[str, Any] | None = None) -> Configuration:
    """Merge the layers for the project in folder `project`. `flags` is nested like the settings and wins.

    Raises ConfigError that names the key and the layer its value came from.
    """
    file = project / CONFIG_FILE
    try:
        from_file = TomlConfigSettingsSource(Settings, file)() if file.exists() else {}
    except (ValueError, OSError) as error:
        raise _unreadable(file, error) from None
    _refuse_unknown_environment()
    try:
        from_environment = EnvSettingsSource(Settings)()
    except SettingsError as error:
        raise ConfigError(
            f"the SHOPFDS_* environment: {error}", remedy="name single values: SHOPFDS_PORTS__OFFSET=100"
        ) from None
    layers: list[tuple[Origin, Mapping[str, Any]]] = [
        ("file", from_file),
        ("environment", from_environment),
        ("flag", flags or {}),
    ]
    merged: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for origin, layer in layers:
        _merge(merged, layer)
        origins.update(dict.fromkeys(_flatten(layer), origin))
    try:
        return Configuration(project, Settings.model_validate(merged), origins)
    except ValidationError as error:
        raise _explained(error, origins, file) from None


def set_value(project: Path, key: str, text: str) -> Any:
    """Write one value to shopfds.toml, keeping its comments and order; the whole is validated first.

    `text` is a TOML value, or a bare string. Returns the value as validated.
    """
    if key not in known_keys():
        raise UnknownNameError("setting", key, known_keys())
    file = project / CONFIG_FILE
    try:
        document = tomlkit.parse(file.read_text()) if file.exists() else tomlkit.document()
    except (ValueError, OSError) as error:
        raise _unreadable(file, error) from None
    table: Any = document
    *sections, leaf = key.split(".")
    for section in sections:
        table = table.setdefault(section, tomlkit.table())
    table[leaf] = _toml_value(text)
    candidate = document.unwrap()
    try:
        settings = Settings.model_validate(candidate)
    except ValidationError as error:
        raise _explained(error, {**dict.fromkeys(_flatten(candidate), "file"), key: "flag"}, file) from None
    write_atomically(file, document.as_string().encode(), mode=0o644)
    return _flatten(settings.model_dump(mode="json"))[key]


def known_keys() -> tuple[str, ...]:
    """All dotted keys."""
    return tuple(_flatten(Settings().model_dump(mode="json")))


def description(key: str) -> str:
    """What a key means; empty where its name says it."""
    model: Any = Settings
    *sections, leaf = key.split(".")
    for section in sections:
        model = model.model_fields[section].annotation
    return str(model.model_fields[leaf].description or "")


def _unreadable(file: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{file} cannot be read: {error}", remedy="correct it, or remove it for the defaults")


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _merge(target: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for name, value in layer.items():
        if isinstance(value, Mapping) and isinstance(target.get(name), dict):
            _merge(target[name], value)
        else:
            target[name] = dict(value) if isinstance(value, Mapping) else value


def _toml_value(text: str) -> Any:
    try:
        return tomlkit.value(text)
    except ParseError:
        return text


def _refuse_unknown_environment() -> None:
    known = {f"{ENV_PREFIX}{key.upper().replace('.', '__')}": key for key in known_keys()}
    sections = {f"{ENV_PREFIX}{key.split('.')[0].upper()}" for key in known.values() if "." in key}
    for name in os.environ:
        if name.startswith(ENV_PREFIX) and name not in known.keys() | sections | OWN_VARIABLES:
            raise UnknownNameError("setting in the environment", name, known)


def _explained(error: ValidationError, origins: Mapping[str, Origin], file: Path) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    origin = next((origins[name] for name in origins if name == key or name.startswith(f"{key}.")), "default")
    if first["type"] == "extra_forbidden":
        unknown = UnknownNameError("setting", key, known_keys())
        layer = {"environment": f"the {ENV_PREFIX}* environment", "flag": "the command line"}.get(origin, file.name)
        return ConfigError(f"{unknown.what} (in {layer})", remedy=unknown.remedy)
    where = {
        "file": str(file),
        "environment": f"{ENV_PREFIX}{key.upper().replace('.', '__')}",
        "flag": "the command line",
    }
    source = where.get(origin, "the settings together")
    message = first["msg"].removeprefix("Value error, ")
    if not key:  # settings that do not go together
        return ConfigError(message, remedy="change one of them: `shopfds config set KEY VALUE`")
    correct = f"`shopfds config set {key} VALUE` writes a valid one"
    if origin == "environment":
        correct = f"correct it, or `unset {where['environment']}`"
    return ConfigError(f"setting {key} = {first.get('input')!r}: {message} (from {source})", remedy=correct)
