"""Offline images on the real daemon: built, kept, run as they will be run, and carried to another machine."""

from __future__ import annotations

import http.server
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from filelock import FileLock
from python_on_whales import DockerClient

from shopfds_ops.engines import images, pulls
from shopfds_ops.engines.compose import NODE_LABEL, ComposeFiles
from shopfds_ops.engines.daemon import STACK_LABEL
from shopfds_ops.engines.images import SERVERS, ImageSet, Kind
from shopfds_ops.engines.imagestore import Images
from shopfds_ops.errors import EngineError
from shopfds_ops.events import Event, Note
from shopfds_ops.settings import DATA_FOLDER, Settings
from tests.conftest import Project

NOWHERE = {server: f"127.0.0.1:9/{server}:1" for server in SERVERS}
"""References that no registry answers for."""
HARDENED = ("--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--user=999:999", "--tmpfs=/tmp")
VERSION_COMMANDS = {
    "postgres": ("postgres", "--version"),
    "redis": ("redis-server", "--version"),
    "rabbitmq": ("env", "HOME=/tmp", "rabbitmqctl", "version"),
}


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def place(folder: Path, **chosen: str) -> ComposeFiles:
    settings = Settings(images=chosen)
    return ComposeFiles(folder, settings, images.registry(settings.images))


def record(file: Path, kind: Kind, versions: Mapping[str, str]) -> None:
    """Write a docker-compose.yml that was rendered for such images."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({images.RECORD: {"images": kind, "references": NOWHERE, "versions": versions}}))


def notes(told: list[Event]) -> list[Note]:
    return [event for event in told if isinstance(event, Note)]


def identities(references: dict[str, str]) -> list[str]:
    return docker("image", "inspect", "--format={{.Id}}", *references.values()).split()


def made_here() -> set[str]:
    listed = docker("image", "ls", f"--filter=reference={images.OFFLINE}/*", "--format={{.Repository}}:{{.Tag}}")
    return set(listed.split())


@pytest.fixture(scope="module")
def built(offline_images: None) -> ImageSet:
    """The offline images that this machine makes."""
    made = Images(DockerClient(), place(Path("nothing"), source="offline")).decide(None)
    assert made is not None
    return made


@pytest.fixture
def store(built: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Images]:
    """Images by a Dockerfile of the test's own: none is there yet, and making them takes Docker's cache a second."""
    own = tmp_path / "Dockerfile"
    own.write_text(f"{images.recipe().read_text()}# {tmp_path}\n")
    monkeypatch.setattr(images, "recipe", lambda: own)
    before = made_here()
    yield Images(DockerClient(), place(tmp_path, **NOWHERE))
    for reference in {*(made_here() - before), *NOWHERE.values()}:
        subprocess.run(["docker", "image", "rm", reference], capture_output=True, check=False)


# -- what is in them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", SERVERS)
def test_each_image_runs_its_server_in_the_version_it_says_and_as_nobody_in_particular(
    built: ImageSet, server: str
) -> None:
    said = docker("run", *HARDENED, built.references[server], *VERSION_COMMANDS[server])
    assert images.version_text(built.versions[server]) in said
    assert docker("run", *HARDENED, built.references[server], "id", "-u", "-n").strip() == server
    assert docker("run", "--rm", built.references[server], "sh", "-c", "id -u; id -g").split() == ["999", "999"]


@pytest.mark.parametrize("server", SERVERS)
def test_a_new_volume_over_the_data_folder_belongs_to_the_server(built: ImageSet, server: str) -> None:
    folder = built.contract(server).data
    volume = f"shopfds-test-{server}"
    try:
        script = f"echo kept > {folder}/file && stat --format=%u:%g {folder}"
        mount = f"--volume={volume}:{folder}"
        assert docker("run", *HARDENED, mount, built.references[server], "sh", "-c", script).strip() == "999:999"
        assert docker("run", *HARDENED, mount, built.references[server], "cat", f"{folder}/file") == "kept\n"
    finally:
        subprocess.run(["docker", "volume", "rm", volume], capture_output=True, check=False)


def test_postgres_makes_and_serves_a_database_without_its_compiler(built: ImageSet) -> None:
    script = (
        "initdb --pgdata=/tmp/data --username=postgres > /dev/null && cd /tmp && "
        "echo 'SET jit_above_cost = 0; SELECT sum(n) FROM generate_series(1, 100000) n' |"
        " postgres --single -D /tmp/data postgres"
    )
    assert "5000050000" in docker("run", *HARDENED, built.references["postgres"], "sh", "-c", script)


@pytest.mark.parametrize("server", SERVERS)
def test_no_image_holds_a_secret_a_way_to_become_root_or_what_nobody_needs(built: ImageSet, server: str) -> None:
    script = (
        "find / -xdev -type f -perm /6000; find / -xdev -name .erlang.cookie; find / -xdev -name '*.key';"
        "find /var/lib/apt/lists /var/cache/apt /usr/share/doc /usr/share/locale -type f -size +0"
    )
    run = ("run", "--rm", "--network=none", "--user=0", built.references[server], "sh", "-c")
    assert docker(*run, script) == ""
    assert docker(*run, "for tool in getent grep sh sleep; do command -v $tool; done").count("\n") == 4


def test_the_servers_share_nearly_everything(built: ImageSet) -> None:
    layers = [
        json.loads(docker("image", "inspect", "--format={{json .RootFS.Layers}}", reference))
        for reference in built.references.values()
    ]
    assert layers[0][:2] == layers[1][:2] == layers[2][:2]
    assert int(docker("image", "inspect", "--format={{.Size}}", built.references["postgres"])) < 400e6


# -- getting them ----------------------------------------------------------------------------------------------------


def test_a_second_build_does_nothing_and_says_so(built: ImageSet, docker_project: Project) -> None:
    before = identities(dict(built.references))
    began = time.monotonic()
    done = docker_project.run("images", "build")
    assert done.returncode == 0
    assert "up to date" in done.stderr
    assert time.monotonic() - began < 5  # alone on a machine: 0.6 s
    assert identities(dict(built.references)) == before


def test_where_no_registry_answers_offline_images_are_made_and_it_is_said(store: Images) -> None:
    assert store.decide(None) is None
    told: list[Event] = []
    provided = store.provide(None, told.append)
    assert provided.kind == "offline"
    assert store.present(provided)
    assert store.decide(None) == provided
    assert [note.level for note in notes(told)] == ["warning", "ok"]
    assert notes(told)[0].text.startswith("images: offline, because no registry answers")
    assert "connection refused" in notes(told)[0].text


@pytest.mark.parametrize("running", [None, "offline"])
def test_which_images_are_used_is_said_once_and_why_though_all_are_here(store: Images, running: Kind | None) -> None:
    store.build(lambda _: None)
    told: list[Event] = []
    store.provide(running, told.append)
    why = "the containers" if running else "they are here, and the official ones are not"
    (note,) = notes(told)
    assert note.text.startswith(f"images: offline, because {why}")


@pytest.fixture
def volume(store: Images, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Makes a volume as Compose makes those of the stack in the test's folder."""
    name = f"shopfds-test-{tmp_path.name}"

    def make() -> None:
        labels = (f"--label={STACK_LABEL}={place(tmp_path).stack}", f"--label={NODE_LABEL}=postgres-primary")
        docker("volume", "create", *labels, name)

    yield make
    subprocess.run(["docker", "volume", "rm", name], capture_output=True, check=False)


def test_a_record_binds_only_where_there_are_data(store: Images, tmp_path: Path, volume: Callable[[], None]) -> None:
    made = store.build(lambda _: None)
    record(place(tmp_path).file, "registry", dict.fromkeys(SERVERS, "1"))
    assert store.decide() == made
    volume()
    decision = store.decision()
    assert (decision.kind, decision.reason) == ("registry", "the data of this stack were made with them")


REFUSALS = {
    404: ("no such image", "images.*"),
    401: ("does not give it to you", "docker login"),
    403: ("does not give it to you", "docker login"),
    429: ("no more pulls for now", "docker login"),
}


@pytest.fixture
def registry() -> Iterator[Callable[[int], str]]:
    """Starts a registry that answers every request for an image with one status, as real ones word it; where it is."""
    words = {404: "MANIFEST_UNKNOWN", 401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}
    started: list[http.server.HTTPServer] = []

    def start(status: int) -> str:
        class Refusing(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                refused = self.path != "/v2/"
                self.send_response(status if refused else 200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                body = {"errors": [{"code": words[status], "message": "no"}]} if refused else {}
                if self.command == "GET":
                    self.wfile.write(json.dumps(body).encode())

            do_HEAD = do_GET  # noqa: N815  so http.server calls it

            def log_message(self, *_: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
        started.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", REFUSALS)
def test_a_registry_that_refuses_is_an_error_and_nothing_else_is_used_instead(
    store: Images, tmp_path: Path, registry: Callable[[int], str], status: int
) -> None:
    host = registry(status)
    refused = Images(DockerClient(), place(tmp_path, **{server: f"{host}/{server}:1" for server in SERVERS}))
    before = made_here()
    with pytest.raises(EngineError) as caught:
        refused.provide(None, lambda _: None)
    cause, remedy = REFUSALS[status]
    assert cause in caught.value.what, caught.value.details
    assert remedy in caught.value.remedy
    assert made_here() == before


def test_a_registry_that_says_nothing_is_not_awaited_for_long(
    store: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "ANSWER_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        waiting = Images(DockerClient(), place(tmp_path, **{server: f"{host}/{server}:1" for server in SERVERS}))
        told: list[Event] = []
        began = time.monotonic()
        with pytest.raises(EngineError, match="no registry answers"):
            waiting.provide("registry", lambda _: None)
        assert time.monotonic() - began < 10
        assert waiting.provide(None, told.append).kind == "offline"
        assert "timed out after 2 s" in notes(told)[0].text


def test_nothing_is_got_while_another_command_changes_the_stack(docker_project: Project) -> None:
    nowhere = {f"SHOPFDS_IMAGES__{server.upper()}": reference for server, reference in NOWHERE.items()}
    folder = docker_project.folder / DATA_FOLDER
    folder.mkdir()
    for command in ("up", "start"):
        with FileLock(folder / "lock"):
            said = docker_project.run(command, "--images", "registry", env=nowhere)
        assert said.returncode == 1
        assert "another shopfds command" in said.stderr
        assert "images:" not in said.stderr
        assert "could not be pulled" in docker_project.run(command, "--images", "registry", env=nowhere).stderr


def test_the_topology_is_for_the_images_that_were_built_and_not_for_those_of_the_record(
    store: Images, docker_project: Project
) -> None:
    stack = docker_project.stack()
    file = place(docker_project.folder).file
    record(file, "offline", {"postgres": "18", "redis": "7", "rabbitmq": "3"})
    assert stack.topology.node("postgres-primary").environment["PGDATA"].startswith("/var/lib/postgresql/pgdata")
    file.unlink()  # it would be taken for one that somebody edited
    stack.start(["redis-node-1"])
    folder = stack.engine.site.volume("postgres-primary", "data", "postgres")
    assert stack.topology.node("postgres-primary").environment["PGDATA"] == f"{folder}/pgdata"


def test_official_images_that_are_here_win_and_nothing_is_pulled_or_built(store: Images, built: ImageSet) -> None:
    for server, reference in NOWHERE.items():
        docker("tag", built.references[server], reference)
    told: list[Event] = []
    assert store.provide(None, told.append).references == NOWHERE
    assert [note.text for note in notes(told)] == ["images: registry, because they are here"]


def test_data_made_on_official_images_are_not_opened_by_others(store: Images) -> None:
    with pytest.raises(EngineError, match="could not be pulled") as caught:
        store.provide("registry", lambda _: None)
    assert "images load" in caught.value.remedy or "`load`" in caught.value.remedy


def test_a_half_made_set_is_completed(store: Images) -> None:
    made = store.build(lambda _: None)
    docker("image", "rm", made.references["redis"])
    assert store.missing(made) == [made.references["redis"]]
    assert store.decide("offline") is None
    assert store.build(lambda _: None) == made
    assert store.present(made)


def test_a_build_that_fails_shows_why_and_leaves_nothing_that_counts(store: Images) -> None:
    text = images.recipe().read_text()
    images.recipe().write_text(text.replace("groupmod --gid 999 rabbitmq", "echo cannot be done >&2; exit 7"))
    with pytest.raises(EngineError, match="'rabbitmq' could not be made") as caught:
        store.build(lambda _: None)
    assert "cannot be done" in caught.value.details
    assert store.decide("offline") is None
    images.recipe().write_text(text)
    assert store.present(store.build(lambda _: None))


def test_a_mirror_that_does_not_answer_is_an_error_that_names_the_setting(
    docker_project: Project, built: ImageSet
) -> None:
    nowhere = {"SHOPFDS_IMAGES__MIRROR": "http://127.0.0.1:9/debian"}
    done = docker_project.run("images", "build", env=nowhere)
    assert done.returncode == 1
    assert "[FAIL]" in done.stderr
    assert "images.mirror" in done.stderr
    assert "http://127.0.0.1:9/debian" in done.stderr


def test_an_interrupted_build_ends_what_it_began_and_keeps_what_was_there(
    docker_project: Project, built: ImageSet
) -> None:
    before = identities(dict(built.references))
    process = docker_project.start("images", "build", "--force")
    began = psutil.Process(process.pid)
    deadline = time.monotonic() + 30
    children: list[psutil.Process] = []
    while "debootstrap" not in [child.name() for child in children]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        children = began.children(recursive=True)
    process.send_signal(signal.SIGINT)  # to it alone, as `kill` does
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert "shopfds-base" not in Path("/proc/mounts").read_text()
    assert identities(dict(built.references)) == before


def test_images_that_another_release_of_the_distribution_made_are_used(
    store: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = store.build(lambda _: None)
    monkeypatch.setattr(images, "release", lambda: None)  # on a machine that could make none
    assert store.decide("offline") == made
    assert store.provide("offline", lambda _: None) == made


# -- bundles ---------------------------------------------------------------------------------------------------------


def test_what_is_saved_and_removed_comes_back_under_the_same_names(store: Images, tmp_path: Path) -> None:
    made = store.build(lambda _: None)
    before = identities(dict(made.references))
    told: list[Event] = []
    file = tmp_path / "bundle.tar"
    assert store.save(file, None, told.append) == made
    assert told
    assert [path.name for path in tmp_path.iterdir() if "bundle" in path.name] == ["bundle.tar"]
    docker("image", "rm", *made.references.values())
    assert store.decide("offline") is None
    assert sorted(store.load(file)) == sorted(made.references.values())
    assert identities(dict(made.references)) == before
    assert store.decide("offline") == made


def test_nothing_is_saved_while_an_image_is_missing(store: Images, tmp_path: Path) -> None:
    file = tmp_path / "bundle.tar"
    with pytest.raises(EngineError, match="no images to save"):
        store.save(file)
    with pytest.raises(EngineError, match="missing") as caught:
        store.save(file, "registry")
    assert f"docker pull {NOWHERE['redis']}" in caught.value.remedy
    assert not file.exists()


def test_a_digest_which_a_bundle_would_lose_is_refused(docker_daemon: None, tmp_path: Path) -> None:
    pinned = {server: f"{reference}@sha256:{'0' * 64}" for server, reference in NOWHERE.items()}
    with pytest.raises(EngineError, match="cannot carry the digest"):
        Images(DockerClient(), place(tmp_path, **pinned)).save(tmp_path / "bundle.tar", "registry")


def test_what_is_no_bundle_is_refused(docker_project: Project) -> None:
    (docker_project.folder / "text.tar").write_text("no bundle")
    for name, why in (("text.tar", "not a bundle"), ("nothing.tar", "No such file"), (".", "directory")):
        done = docker_project.run("images", "load", name)
        assert (done.returncode, done.stdout) == (1, "")
        assert why in done.stderr
        assert "images save" in done.stderr


def test_the_list_shows_every_image_with_what_is_known(docker_project: Project, built: ImageSet) -> None:
    listed: Any = docker_project.json("images", "list")["data"]
    rows = {row["reference"]: row for row in listed["images"]}
    assert len(rows) == 6
    for server in SERVERS:
        row = rows[built.references[server]]
        assert (row["kind"], row["state"]) == ("offline", "present")
        assert row["version"] == images.version_text(built.versions[server])
        assert row["size"] > 0
    assert images.OFFLINE in docker_project.ok("images", "list")
