"""Container images: which set a stack uses, what we rely on in them, and what is read from files and other programs."""

from __future__ import annotations

import io
import json
import re
import tarfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shopfds_ops.components.base import Plan
from shopfds_ops.components.registry import COMPONENTS
from shopfds_ops.engines import images, offline, pulls
from shopfds_ops.engines.images import Decision, ImageSet, Kind, Release, contract, recorded, registry, resolve
from shopfds_ops.engines.imagestore import bundled
from shopfds_ops.engines.sites import DockerSite
from shopfds_ops.engines.watched import failure, watch
from shopfds_ops.errors import EngineError
from shopfds_ops.events import Event, Progress
from shopfds_ops.settings import Images, Settings
from shopfds_ops.topology import Node

BOOKWORM = Release("debian", "bookworm")
OFFLINE = ImageSet(
    "offline",
    {server: f"shopfds-offline/{server}:0123456789ab" for server in images.SERVERS},
    {"postgres": (15, 18), "redis": (7, 0, 15), "rabbitmq": (3, 10, 8)},
)


# -- the contract of the official images, which cannot be pulled everywhere ------------------------------------------


@dataclass(frozen=True)
class Official:
    """What the Dockerfile of an official image says. It is read off by hand: see the source of each."""

    uid: int
    gid: int
    volume: str
    programs: frozenset[str]
    """Those on its PATH that nodes begin with or are asked by."""
    environment: frozenset[str]
    """The variables it sets that its server, or the tools beside it, look at."""


# debian:*-slim and ubuntu:24.04, which they are made on, have dash, grep, coreutils and libc-bin: all are essential.
BASE = frozenset({"sh", "grep", "sleep", "getent"})
POSTGRES = BASE | {"postgres", "initdb", "pg_isready", "pg_basebackup", "psql"}
OFFICIAL: Mapping[tuple[str, tuple[int, ...]], Official] = {
    # docker-library/postgres, 17/bookworm/Dockerfile: groupadd and useradd with 999; VOLUME /var/lib/postgresql/data,
    # made for that user; PATH with /usr/lib/postgresql/$PG_MAJOR/bin; ENV LANG and PGDATA.
    ("postgres", (17,)): Official(999, 999, "/var/lib/postgresql/data", POSTGRES, frozenset({"PGDATA"})),
    # The same for 14/trixie/Dockerfile.
    ("postgres", (14, 18)): Official(999, 999, "/var/lib/postgresql/data", POSTGRES, frozenset({"PGDATA"})),
    # 18/bookworm/Dockerfile: VOLUME /var/lib/postgresql, PGDATA /var/lib/postgresql/18/docker; the rest is the same.
    ("postgres", (18,)): Official(999, 999, "/var/lib/postgresql", POSTGRES, frozenset({"PGDATA"})),
    # redis/docker-library-redis, 7.4/debian/Dockerfile: groupadd and useradd with 999; VOLUME /data, owned by redis;
    # programs are installed to /usr/local/bin. It sets only variables of its own build.
    ("redis", (7, 4)): Official(999, 999, "/data", BASE | {"redis-server", "redis-cli"}, frozenset()),
    # docker-library/rabbitmq, 4.1/ubuntu/Dockerfile: groupadd and useradd with 999; VOLUME $RABBITMQ_DATA_DIR, which is
    # /var/lib/rabbitmq; PATH with /opt/rabbitmq/sbin; ENV HOME, LANG, LC_ALL.
    ("rabbitmq", (4, 1)): Official(
        999,
        999,
        "/var/lib/rabbitmq",
        BASE | {"rabbitmq-server", "rabbitmqctl", "rabbitmq-diagnostics"},
        frozenset({"HOME", "LANG", "LC_ALL"}),
    ),
}


def official_nodes(**pins: str) -> list[Node]:
    """The nodes and jobs of a stack on official images."""
    settings = Settings(images=Images(**pins))
    plan = Plan(settings, DockerSite(registry(settings.images)))
    return [node for component in COMPONENTS for node in (*component.nodes(plan), *component.jobs(plan))]


@pytest.mark.parametrize(("server", "version"), OFFICIAL)
def test_the_contract_is_that_of_the_official_images(server: str, version: tuple[int, ...]) -> None:
    official = OFFICIAL[server, version]
    ours = contract(server, version)
    assert (ours.uid, ours.gid, ours.folder("data")) == (official.uid, official.gid, official.volume)


def test_the_versions_that_the_settings_pin_are_ones_whose_dockerfile_was_read() -> None:
    assert set(registry(Images()).versions.items()) <= OFFICIAL.keys()


def test_every_node_begins_with_a_program_that_the_official_image_has() -> None:
    versions = registry(Images()).versions
    for node in official_nodes():
        programs = {node.command[0]} | ({node.health.command[0]} if node.health else set())
        assert programs <= OFFICIAL[node.image, versions[node.image]].programs, node.name


def test_no_node_is_led_by_a_variable_that_the_official_image_sets() -> None:
    versions = registry(Images()).versions
    for node in official_nodes():
        if node.volumes:
            assert OFFICIAL[node.image, versions[node.image]].environment <= node.environment.keys(), node.name


def test_data_lie_below_the_folder_that_the_official_image_made_for_them() -> None:
    for pins in ({}, {"postgres": "postgres:18"}):
        for node in official_nodes(**pins):
            if node.image == "postgres" and node.volumes:
                volume = OFFICIAL["postgres", registry(Images(**pins)).versions["postgres"]].volume
                assert node.environment["PGDATA"].startswith(f"{volume}/")


def test_the_configuration_in_the_official_broker_image_is_not_read() -> None:
    # docker-library/rabbitmq, 4.1/ubuntu/Dockerfile puts two files into /etc/rabbitmq/conf.d, which are read besides
    # RABBITMQ_CONFIG_FILE and over it: 10-defaults.conf lets guest in from everywhere, and
    # 20-management_agent.disable_metrics_collector.conf leaves the management API without figures (issues 438, 625).
    (broker,) = [node for node in official_nodes() if node.image == "rabbitmq"]
    assert not broker.environment["RABBITMQ_CONFIG_FILES"].startswith("/etc/rabbitmq")
    assert not broker.environment["RABBITMQ_ENABLED_PLUGINS_FILE"].startswith("/etc/rabbitmq")


@pytest.mark.parametrize("server", images.SERVERS)
def test_the_offline_image_keeps_the_same_contract(server: str) -> None:
    stage = re.split(r"(?m)^FROM \S+ AS ", images.recipe().read_text())
    (own,) = [text for text in stage if text.startswith(f"{server}\n")]
    ours = contract(server, OFFLINE.versions[server])
    assert f"USER {ours.uid}:{ours.gid}\n" in own
    assert f"groupmod --gid {ours.gid} {server}" in own
    assert f"usermod --uid {ours.uid} " in own
    assert re.search(rf"install --directory --owner {server} --group {server} .*{ours.data}\b", own)
    assert "VOLUME" not in own  # Docker would make a nameless one for every container without a volume


def test_no_folder_is_known_for_an_unknown_volume() -> None:
    with pytest.raises(ValueError, match="'logs'"):
        contract("redis", (7,)).folder("logs")


# -- references ------------------------------------------------------------------------------------------------------


def test_versions_are_read_from_tags_and_digests() -> None:
    pinned = Images(postgres="reg.example:5000/postgres:16.4-bookworm", redis=f"redis:7.4@sha256:{'0f' * 32}")
    assert registry(pinned).versions["postgres"] == (16, 4)
    assert registry(pinned).versions["redis"] == (7, 4)


def test_the_name_of_an_offline_image_changes_with_what_goes_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = images.offline_references(Images())
    assert images.offline_references(Images()) == before
    assert images.offline_references(Images(mirror="http://mirror.example/debian")) != before
    assert images.offline_references(Images(postgres="postgres:16")) == before  # of the official images only
    monkeypatch.setattr(images, "release", lambda: Release("debian", "another"))
    assert images.offline_references(Images()) != before
    monkeypatch.undo()
    changed = tmp_path / "Dockerfile"
    changed.write_text(images.recipe().read_text() + "# another\n")
    monkeypatch.setattr(images, "recipe", lambda: changed)
    assert images.offline_references(Images()).keys() == before.keys()
    assert not set(images.offline_references(Images()).values()) & set(before.values())


def test_the_dockerfile_is_part_of_an_installed_package() -> None:
    checkout = Path(__file__).parents[2]
    build = tomllib.loads((checkout / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["force-include"]["images"] == "shopfds_ops/images"
    assert images.recipe().is_file()


# -- which -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "running", "data", "present", "kind"),
    [
        ("offline", "registry", "registry", ["registry"], "offline"),
        ("registry", "offline", "offline", ["offline"], "registry"),
        ("auto", "offline", "registry", ["registry", "offline"], "offline"),
        ("auto", "registry", "offline", ["offline"], "registry"),
        ("auto", None, "offline", ["registry"], "offline"),
        ("auto", None, "registry", ["offline"], "registry"),
        ("auto", None, None, ["registry", "offline"], "registry"),
        ("auto", None, None, ["offline"], "offline"),
        ("auto", None, None, [], None),
    ],
)
def test_the_setting_wins_then_what_data_were_made_with_then_what_is_here(
    source: Any, running: Kind | None, data: Kind | None, present: list[Kind], kind: Kind | None
) -> None:
    assert resolve(source, running=running, data=data, present=present).kind == kind


def test_every_decision_has_a_reason_of_its_own() -> None:
    decisions: set[Decision] = {
        resolve("offline", running=None, data=None, present=()),
        resolve("auto", running="offline", data=None, present=()),
        resolve("auto", running=None, data="offline", present=()),
        resolve("auto", running=None, data=None, present=["offline"]),
        resolve("auto", running=None, data=None, present=()),
    }
    assert len({decision.reason for decision in decisions}) == 5


def test_without_a_daemon_the_setting_or_the_record_decides() -> None:
    official = registry(Images())
    assert images.without_daemon(Images(), None) == official
    assert images.without_daemon(Images(), OFFLINE) == OFFLINE
    assert images.without_daemon(Images(source="registry"), OFFLINE) == official
    assert images.without_daemon(Images(source="offline"), OFFLINE) == OFFLINE
    # Their versions are not known before some were made.
    assert images.without_daemon(Images(source="offline"), official) == official


def record_of(image_set: ImageSet) -> dict[str, Any]:
    return {
        "images": image_set.kind,
        "references": dict(image_set.references),
        "versions": {server: images.version_text(version) for server, version in image_set.versions.items()},
    }


def test_the_record_in_a_compose_file_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "docker-compose.yml"
    for known in (OFFLINE, registry(Images())):
        file.write_text(yaml.safe_dump({"name": "shop", images.RECORD: record_of(known), "services": {}}))
        assert recorded(file) == known


@pytest.mark.parametrize(
    "spoiled",
    [
        {"images": "other"},
        {"references": {"postgres": "a"}},
        {"versions": {"postgres": "15", "redis": "7", "rabbitmq": "new"}},
        {"versions": {"postgres": 15.18, "redis": "7", "rabbitmq": "3"}},  # without quotes, 15.10 would become 15.1
    ],
)
def test_a_record_that_is_not_whole_counts_as_none(tmp_path: Path, spoiled: dict[str, Any]) -> None:
    file = tmp_path / "docker-compose.yml"
    file.write_text(yaml.safe_dump({images.RECORD: record_of(OFFLINE) | spoiled}))
    assert recorded(file) is None


def test_no_compose_file_is_no_record(tmp_path: Path) -> None:
    assert recorded(tmp_path / "docker-compose.yml") is None
    assert recorded(tmp_path) is None


WORDS = st.sampled_from(["images", "references", "versions", *images.SERVERS, *get_args(Kind), "1.2", "x"])
TREES: st.SearchStrategy[Any] = st.recursive(
    WORDS | st.none() | st.integers() | st.floats() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wild") / "file"


@given(content=st.binary() | st.text().map(str.encode) | st.text("[]{}:-&*!|> \n\t'\"#%x1").map(str.encode))
def test_wild_text_is_never_a_record(wild: Path, content: bytes) -> None:
    wild.write_bytes(content)
    assert recorded(wild) is None


@given(tree=TREES)
def test_a_wild_record_is_whole_or_none(wild: Path, tree: Any) -> None:
    wild.write_text(yaml.safe_dump({images.RECORD: tree}))
    found = recorded(wild)
    if found is not None:
        assert found.kind in get_args(Kind)
        assert all(found.contract(server).uid for server in images.SERVERS)


@given(parts=st.lists(st.integers(0, 10**9 - 1), min_size=1, max_size=4).map(tuple))
def test_versions_survive_being_written(parts: tuple[int, ...]) -> None:
    assert images.version(images.version_text(parts)) == parts


@given(text=st.text())
def test_a_text_is_a_version_or_nothing(text: str) -> None:
    assert bool(images.version(text)) == bool(re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})*", text))


# -- making offline images -------------------------------------------------------------------------------------------

MAIN = "http://deb.example/debian/"
SECURITY = "http://deb.example/debian-security/"


def test_only_the_archives_of_the_release_itself_are_sources() -> None:
    targets = [
        f"Debian\t{MAIN}\tbookworm\tmain",
        f"Debian\t{MAIN}\tbookworm\tcontrib",
        f"Debian\t{MAIN}\tbookworm-updates\tmain",
        f"Debian\t{SECURITY}\tbookworm-security\tmain",
        f"Debian\t{MAIN}\ttrixie\tmain",
        "Somebody\thttp://other.example/\tbookworm\tmain",
    ]
    assert offline.distribution_sources(targets, BOOKWORM) == [
        f"deb {MAIN} bookworm main",
        f"deb {MAIN} bookworm-updates main",
        f"deb {SECURITY} bookworm-security main",
    ]


def test_ubuntus_servers_are_in_two_components() -> None:
    address = "http://archive.example/ubuntu/"
    targets = [f"Ubuntu\t{address}\tnoble\t{component}" for component in ("main", "restricted", "universe")]
    assert offline.distribution_sources(targets, Release("ubuntu", "noble")) == [f"deb {address} noble main universe"]


def test_of_a_list_of_mirrors_the_first_is_taken(tmp_path: Path) -> None:
    mirrors = tmp_path / "mirrors.txt"
    mirrors.write_text(f"{MAIN}\tpriority:1\nhttp://second.example/debian/\n")
    targets = [f"\tmirror+file:{mirrors}/\tbookworm\tmain"]  # no origin: before the first `apt-get update`
    assert offline.distribution_sources(targets, BOOKWORM) == [f"deb {MAIN} bookworm main"]


def test_a_mirror_of_the_settings_is_the_only_source() -> None:
    settings = Images(mirror="http://mirror.example/debian")
    assert offline.package_sources(settings, BOOKWORM) == ["deb http://mirror.example/debian bookworm main"]


def test_where_no_packages_are_known_the_setting_is_named() -> None:
    with pytest.raises(EngineError, match="no packages of nothing") as caught:
        offline.package_sources(Images(), Release("debian", "nothing"))
    assert "images.mirror" in caught.value.remedy


def test_elsewhere_than_on_debian_and_ubuntu_the_way_around_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "release", lambda: None)
    with pytest.raises(EngineError) as caught:
        offline.build(["false"], Images(), lambda _: None)
    assert "images save" in caught.value.remedy
    assert "images load" in caught.value.remedy


def test_versions_are_those_of_the_servers_packages() -> None:
    listing = (
        "postgresql-15 15.20-0+deb12u1\npostgresql-client-15 15.21-0\nredis-server 5:7.0.15-1~deb12u6\n"
        "rabbitmq-server 3.10.8-1.1+deb12u1\n"
    )
    assert offline.server_versions(listing) == {"postgres": (15, 20), "redis": (7, 0, 15), "rabbitmq": (3, 10, 8)}


APT = [
    "0 upgraded, 2 newly installed, 0 to remove.",
    *["Get:1 http://deb.example/ a", "Unpacking a", "Setting up a"] * 2,
]


@pytest.mark.parametrize("prefix", ["", "#7 12.34 "])
def test_progress_of_apt_grows_to_its_total(prefix: str) -> None:
    """With either builder: BuildKit puts step and time before each line."""
    seen: list[Event] = []
    follow = offline.AptProgress("packages", seen.append)
    for line in ["Get:1 http://deb.example InRelease", *APT, "Setting up one more"]:
        follow(prefix + line)
    assert seen == [Progress("packages", done, 6, "steps") for done in range(1, 7)]


def test_progress_of_debootstrap_knows_its_total_once_all_is_got() -> None:
    seen: list[Progress] = []
    follow = offline.BootstrapProgress("base", seen.append)  # type: ignore[arg-type]
    for verb in ("Retrieving", "Validating", "Extracting", "Unpacking", "Configuring"):
        for package in ("a", "b"):
            follow(f"I: {verb} {package}...")
    assert [event.done for event in seen] == list(range(1, 10))  # who ends the task says that it is done
    assert [event.total for event in seen] == [0] * 4 + [10] * 5


def test_a_full_disk_is_named_as_such() -> None:
    error = failure("the build failed", "check the network", ["...", "write /usr/lib/x: No space left on device"])
    assert "no space left" in error.what
    assert "docker system prune" in error.remedy
    assert failure("the build failed", "check the network", ["other"]).remedy == "check the network"


def test_a_command_that_fails_shows_its_last_lines() -> None:
    seen: list[str] = []
    with pytest.raises(EngineError, match="counting failed") as caught:
        watch(["sh", "-c", "seq 100; echo why >&2; exit 3"], seen.append, what="counting failed", remedy="count")
    assert seen == [*map(str, range(1, 101)), "why"]
    assert caught.value.details.splitlines()[-2:] == ["100", "why"]
    assert len(caught.value.details.splitlines()) < 20


# -- pulling official images -----------------------------------------------------------------------------------------

ASKED = 'Error response from daemon: Get "https://registry.example/v2/": '
RESOLVED = 'failed to resolve reference "{}": failed to do request: Head "https://registry.example/v2/x/manifests/1": '
UNREACHABLE = [
    ASKED + "dial tcp: lookup registry.example on 10.0.0.1:53: no such host",
    ASKED + "dial tcp: lookup registry.example: Temporary failure in name resolution",
    ASKED + "dial tcp 203.0.113.7:443: connect: connection refused",
    ASKED + "dial tcp 203.0.113.7:443: i/o timeout",
    ASKED + "read tcp 10.0.0.2:40000->203.0.113.7:443: read: connection reset by peer",
    ASKED + "net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)",
    ASKED + "net/http: TLS handshake timeout",
    ASKED + "context deadline exceeded",
    ASKED + "EOF",
    ASKED + "x509: certificate signed by unknown authority",
    ASKED + "tls: failed to verify certificate: x509: certificate is valid for proxy.example",
    ASKED + "http: server gave HTTP response to HTTPS client",
    ASKED + "proxyconnect tcp: dial tcp 10.0.0.3:3128: connect: no route to host",
    ASKED + "Service Unavailable",
    "17: Pulling from {}\nf1: Pulling fs layer\nunexpected EOF",
    RESOLVED + "dial tcp: lookup registry.example: no such host",
]
REFUSED = {
    "no such image": [
        "Error response from daemon: manifest for {} not found: manifest unknown: manifest unknown",
        'failed to resolve reference "{}": {}: not found',
        "17: Pulling from {}\nno matching manifest for linux/riscv64 in the manifest list entries",
    ],
    "does not give it to you": [
        "Error response from daemon: pull access denied for {}, repository does not exist or may require"
        " 'docker login': denied: requested access to the resource is denied",
        ASKED + "no basic auth credentials",
        ASKED + "unauthorized: authentication required",
        RESOLVED + "failed to fetch oauth token: unexpected status: 401 Unauthorized",
        RESOLVED + "unexpected status from HEAD request: 403 Forbidden",
        ASKED + "Forbidden",
    ],
    "no more pulls for now": [
        "Error response from daemon: toomanyrequests: You have reached your pull rate limit.",
        RESOLVED + "unexpected status from HEAD request: 429 Too Many Requests",
    ],
    "no space left": [
        "failed to register layer: Error processing tar file(exit status 1): write /usr/x: no space left on device"
    ],
    "daemon does not answer": [
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
        "error during connect: this error may indicate that it is not running: open //./pipe/docker_engine: EOF",
    ],
    "could not be pulled": ["Error response from daemon: something that nobody has seen yet", ""],
}
LABELS = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)*", fullmatch=True) | st.sampled_from(
    [
        "eof",
        "timeout",
        "denied",
        "unauthorized",
        "dial",
        "tcp",
        "tls",
        "x509",
        "not-found",
        "forbidden",
        "toomanyrequests",
    ]
)
REFERENCES = st.tuples(st.lists(LABELS, min_size=1, max_size=4).map("/".join), LABELS).map(":".join)


@given(reference=REFERENCES, said=st.sampled_from(UNREACHABLE))
def test_a_registry_that_does_not_answer_is_known_as_such(reference: str, said: str) -> None:
    error = pulls.refusal(reference, said.replace("{}", reference).splitlines())
    assert isinstance(error, pulls.UnreachableError)
    assert "no registry answers" in error.what
    assert "images load" in error.remedy or "`load`" in error.remedy


@given(reference=REFERENCES, case=st.sampled_from([(why, said) for why, texts in REFUSED.items() for said in texts]))
def test_what_a_registry_refuses_is_an_error_of_its_own(reference: str, case: tuple[str, str]) -> None:
    why, said = case
    error = pulls.refusal(reference, said.replace("{}", reference).splitlines())
    assert not isinstance(error, pulls.UnreachableError)
    assert why in error.what
    assert error.remedy


def test_every_refusal_has_a_remedy_of_its_own() -> None:
    assert len({pulls.refusal("a:1", texts[0].splitlines()).remedy for texts in REFUSED.values()}) == len(REFUSED)


@given(lines=st.lists(st.text()))
def test_wild_output_of_a_pull_is_an_error_that_names_the_image(lines: list[str]) -> None:
    assert pulls.refusal("postgres:17", lines).what.startswith("postgres:17 could not be pulled")


# -- bundles ---------------------------------------------------------------------------------------------------------


def bundle(path: Path, manifest: str) -> Path:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("manifest.json")
        info.size = len(manifest.encode())
        archive.addfile(info, io.BytesIO(manifest.encode()))
    return path


def test_a_bundle_names_its_images(tmp_path: Path) -> None:
    manifest = json.dumps([{"RepoTags": ["postgres:17"]}, {"RepoTags": ["redis:7.4"]}, {"RepoTags": None}])
    assert bundled(bundle(tmp_path / "b.tar", manifest)) == ["postgres:17", "redis:7.4"]


@given(content=st.binary())
def test_a_wild_file_is_no_bundle(wild: Path, content: bytes) -> None:
    wild.write_bytes(content)
    with pytest.raises(EngineError, match="not a bundle"):
        bundled(wild)


@given(manifest=TREES | st.dictionaries(st.just("RepoTags"), TREES).map(lambda entry: [entry]))
def test_a_wild_manifest_is_refused_or_names_images(wild: Path, manifest: Any) -> None:
    bundle(wild, json.dumps(manifest, default=str))
    try:
        assert bundled(wild)
    except EngineError as error:
        assert "images save" in error.remedy


def test_a_bundle_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="No such file"):
        bundled(tmp_path / "nothing.tar")
