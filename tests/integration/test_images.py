"""Offline images on the real daemon: built, kept, run as they will be run, and carried to another machine."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from python_on_whales import DockerClient

from shopfds_ops.engines import images
from shopfds_ops.engines.images import SERVERS, ImageSet
from shopfds_ops.engines.imagestore import Images
from shopfds_ops.errors import EngineError
from shopfds_ops.events import Event, Note
from shopfds_ops.settings import Settings
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


def identities(references: dict[str, str]) -> list[str]:
    return docker("image", "inspect", "--format={{.Id}}", *references.values()).split()


def made_here() -> set[str]:
    listed = docker("image", "ls", f"--filter=reference={images.OFFLINE}/*", "--format={{.Repository}}:{{.Tag}}")
    return set(listed.split())


@pytest.fixture(scope="module")
def built(offline_images: None) -> ImageSet:
    """The offline images that this machine makes."""
    made = Images(DockerClient(), Settings(images={"source": "offline"}), Path("nothing")).decide(None)
    assert made is not None
    return made


@pytest.fixture
def store(built: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Images]:
    """Images by a Dockerfile of the test's own: none is there yet, and making them takes Docker's cache a second."""
    own = tmp_path / "Dockerfile"
    own.write_text(f"{images.recipe().read_text()}# {tmp_path}\n")
    monkeypatch.setattr(images, "recipe", lambda: own)
    before = made_here()
    yield Images(DockerClient(), Settings(images=NOWHERE), tmp_path / "docker-compose.yml")
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
    notes = [event for event in told if isinstance(event, Note)]
    assert [note.level for note in notes] == ["warning", "ok"]
    assert "cannot be pulled" in notes[0].text


def test_official_images_that_are_here_win_and_nothing_is_pulled_or_built(store: Images, built: ImageSet) -> None:
    for server, reference in NOWHERE.items():
        docker("tag", built.references[server], reference)
    told: list[Event] = []
    assert store.provide(None, told.append).references == NOWHERE
    assert all(isinstance(event, Note) and event.level == "ok" for event in told)


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
        Images(DockerClient(), Settings(images=pinned), tmp_path / "none").save(tmp_path / "bundle.tar", "registry")


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
