"""The images that Docker's daemon has: which of them a stack uses, and getting them: pulled, built, or from a file."""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from python_on_whales import DockerClient

from shopfds_ops.engines import daemon, images, offline, pulls
from shopfds_ops.engines.compose import IMAGES_LABEL, ComposeFiles
from shopfds_ops.engines.daemon import STACK_LABEL
from shopfds_ops.engines.images import OFFLINE, SERVERS, Decision, ImageSet, Kind
from shopfds_ops.engines.watched import ended_with_us, failure
from shopfds_ops.errors import EngineError
from shopfds_ops.events import Note, Progress, Sink, discard
from shopfds_ops.settings import Settings

BUILD = "`shopfds images build`"
MEBIBYTE = 2**20
CHUNK = 2**20

State = Literal["in use", "present", "missing"]


@dataclass(frozen=True, slots=True)
class Row:
    """One image that this stack could use. `version` is "" while unknown, `size` (bytes) is None while it is missing;
    layers that several images share count in each of them."""

    server: str
    reference: str
    kind: Kind
    version: str
    size: int | None
    state: State


class Images:
    """The images of the stack that `place` is about. Its rendered docker-compose.yml need not be there.

    `running`, where it is asked for, is the kind of the stack's containers, None if there are none. Methods raise
    EngineError with a remedy when the daemon refuses.
    """

    def __init__(self, docker: DockerClient, place: ComposeFiles) -> None:
        self._client = docker
        self._place = place
        self._settings = place.settings.images

    # -- which ---------------------------------------------------------------------------------------------------

    def decision(self, running: Kind | None = None) -> Decision:
        """The kind that the stack uses, and why."""
        source = self._settings.source
        settled = source != "auto" or running is not None
        data = None if settled else self._kind_of_data()
        present = () if settled or data else self._complete()
        return images.resolve(source, running=running, data=data, present=present)

    def _kind_of_data(self) -> Kind | None:
        """The kind that the stack's data were made with, as it is recorded. Without data a record binds nobody: where
        another engine runs the stack, it is for images that nobody looked for."""
        record = self._record
        return record.kind if record and daemon.has_volumes(self._place.stack) is not False else None

    @property
    def _record(self) -> ImageSet | None:
        return images.recorded(self._place.file)

    def decide(self, running: Kind | None = None) -> ImageSet | None:
        """The images that the stack uses; None while that is open, or as long as their versions are not known because
        they are not built."""
        kind = self.decision(running).kind
        if kind is None:
            return None
        if kind == "registry":
            return images.registry(self._settings)
        record = self._record
        return self._offline() or (record if record and record.kind == kind else None)

    def present(self, image_set: ImageSet) -> bool:
        """Whether the daemon has all images of the set."""
        return not self.missing(image_set)

    def missing(self, image_set: ImageSet) -> list[str]:
        """The references of the set that the daemon does not have."""
        found = self._inspect(image_set.references.values())
        return [reference for reference in image_set.references.values() if reference not in found]

    def rows(self, running: Kind | None = None) -> list[Row]:
        """Every image that this stack could use: the official ones, then those made here."""
        official = images.registry(self._settings)
        made = self._offline()
        names = made.references if made else images.offline_references(self._settings)
        found = self._inspect([*official.references.values(), *names.values()])
        sets = (official, ImageSet("offline", names, made.versions if made else {}))
        rows = []
        for item in sets:
            for server, reference in item.references.items():
                known = found.get(reference)
                state: State = "missing" if known is None else "in use" if item.kind == running else "present"
                version = images.version_text(item.versions[server]) if server in item.versions else ""
                rows.append(Row(server, reference, item.kind, version, known["Size"] if known else None, state))
        return rows

    # -- getting -------------------------------------------------------------------------------------------------

    def provide(self, running: Kind | None, sink: Sink) -> ImageSet:
        """Pull or build what is missing of the images that the stack uses. Says which they are and why, in one note."""
        decision = self.decision(running)
        if decision.kind is None:
            return self._first_set(sink)
        chosen = f"images: {decision.kind}, because {decision.reason}"
        if decision.kind == "offline":
            made = self._offline()
            sink(Note("info", chosen if made else f"{chosen}; not all are here: they are built now"))
            return made or self.build(sink)
        official = images.registry(self._settings)
        absent = self.missing(official)
        sink(Note("info", f"{chosen}; pulled now: {', '.join(absent)}" if absent else chosen))
        pulls.pull(self._docker, absent, sink)
        return official

    def _first_set(self, sink: Sink) -> ImageSet:
        official = images.registry(self._settings)
        try:
            pulls.pull(self._docker, self.missing(official), sink)
        except pulls.UnreachableError as error:
            why = error.details.splitlines()[-1]
            sink(Note("warning", f"images: offline, because no registry answers ({why}); they are built now"))
            return self.build(sink)
        sink(Note("info", "images: registry, because they could be pulled"))
        return official

    def build(self, sink: Sink, *, force: bool = False) -> ImageSet:
        """Make the offline images here, unless they are there; with `force` even then, from today's packages."""
        references = images.offline_references(self._settings)
        made = self._as_set(references, self._inspect(references.values()))
        if made is not None and not force:
            sink(Note("ok", f"offline images are up to date: {_versions(made)}"))
            return made
        began = time.monotonic()
        offline.build(self._docker, self._settings, sink, force=force)
        after = self._inspect(references.values())
        made = self._as_set(references, after)
        if made is None:
            raise EngineError("offline images were made, and are gone again", remedy=BUILD)
        sizes = [image["Size"] for image in after.values()]
        text = f"offline images made in {time.monotonic() - began:.0f} s: {_versions(made)}"
        sink(Note("ok", f"{text}; {max(sizes) / MEBIBYTE:.0f} MiB, which they share"))
        return made

    # -- bundles -------------------------------------------------------------------------------------------------

    def save(self, path: Path, running: Kind | None = None, sink: Sink = discard) -> ImageSet:
        """Write the images that the stack uses to one file, for a machine without a network. A half-written file is
        never left behind."""
        used = self.decide(running)
        if used is None:
            raise EngineError(
                "there are no images to save yet", remedy=f"{BUILD} makes some, or `docker pull` gets them"
            )
        pinned = [reference for reference in used.references.values() if "@" in reference]
        if pinned:
            raise EngineError(
                f"a file cannot carry the digest by which {', '.join(pinned)} is named",
                remedy="name it by its tag alone in the settings (images.*), here and where the file is loaded",
            )
        found = self._inspect(used.references.values())
        absent = [reference for reference in used.references.values() if reference not in found]
        if absent:
            pull = " && ".join(f"docker pull {reference}" for reference in absent)
            remedy = f"`{pull}`" if used.kind == "registry" else BUILD
            raise EngineError(f"these images are missing: {', '.join(absent)}", remedy=remedy)
        total = max(image["Size"] for image in found.values())
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as partial:
                try:
                    self._save(list(used.references.values()), partial, _bytes(f"save {path.name}", total, sink))
                    Path(partial.name).chmod(0o644)
                    Path(partial.name).replace(path)
                except BaseException:
                    Path(partial.name).unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise EngineError(f"{path} cannot be written: {error.strerror}", remedy="choose another place") from None
        sink(Progress(f"save {path.name}", total, total))
        return used

    def load(self, path: Path, sink: Sink = discard) -> list[str]:
        """Load images from a file that `save` wrote; returns their references."""
        names = bundled(path)
        with path.open("rb") as source:
            tell = _bytes(f"load {path.name}", path.stat().st_size, sink)
            argv = [*self._docker, "image", "load", "--quiet"]
            with ended_with_us(argv, stdin=subprocess.PIPE) as process:
                assert process.stdin is not None  # noqa: S101  a pipe, by the call above
                with suppress(BrokenPipeError):  # it says why
                    _pump(source, process.stdin, tell)
                _, refusal = process.communicate()
        if process.returncode != 0:
            raise failure(
                f"{path} could not be loaded", "make it anew: `shopfds images save`", refusal.decode().splitlines()
            )
        return names

    def _save(self, references: Sequence[str], target: Any, tell: Callable[[int], None]) -> None:
        with ended_with_us([*self._docker, "image", "save", *references]) as process:
            assert process.stdout is not None and process.stderr is not None  # noqa: S101  pipes
            _pump(process.stdout, target, tell)
            refusal = process.stderr.read().decode()
        if process.returncode != 0:
            raise failure("the images could not be saved", "the last line says why", refusal.splitlines())

    # -- asking --------------------------------------------------------------------------------------------------

    @property
    def _docker(self) -> list[str]:
        return [str(part) for part in self._client.client_config.docker_cmd]

    def _complete(self) -> list[Kind]:
        official = images.registry(self._settings)
        kinds: list[Kind] = ["registry"] if self.present(official) else []
        return [*kinds, "offline"] if self._offline() else kinds

    def _offline(self) -> ImageSet | None:
        """The images that would be made here; else those made elsewhere by the same Dockerfile, and loaded here."""
        references = images.offline_references(self._settings)
        return self._as_set(references, self._inspect(references.values())) or self._made_elsewhere()

    def _made_elsewhere(self) -> ImageSet | None:
        recipe = images.digest(images.recipe().read_text())
        argv = [
            "image",
            "ls",
            "--filter",
            f"label={offline.RECIPE_LABEL}={recipe}",
            "--format={{.Repository}}:{{.Tag}}",
        ]
        names = self._ask(*argv).split()
        for tag in dict.fromkeys(name.rpartition(":")[2] for name in names):  # the newest first
            references = {server: f"{OFFLINE}/{server}:{tag}" for server in SERVERS}
            if set(references.values()) <= set(names):
                return self._as_set(references, self._inspect(references.values()))
        return None

    def _as_set(self, references: Mapping[str, str], found: Mapping[str, Any]) -> ImageSet | None:
        """The offline images, if all are here, with the versions that their labels name."""
        if not set(references.values()) <= found.keys():
            return None
        labels = {server: found[reference]["Labels"] or {} for server, reference in references.items()}
        versions = {server: images.version(own.get(offline.VERSION_LABEL, "")) for server, own in labels.items()}
        return ImageSet("offline", references, versions) if all(versions.values()) else None

    def _inspect(self, references: Any) -> dict[str, Any]:
        """Size and labels of the images that are here, by reference; asked in one call."""
        wanted = list(dict.fromkeys(references))
        template = '{"Size":{{.Size}},"Labels":{{json .Config.Labels}}}'
        argv = [*self._docker, "image", "inspect", f"--format={template}", *wanted]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        refusals = done.stderr.splitlines()
        absent = {
            name for name in wanted for line in refusals if line.lower().endswith(f"no such image: {name}".lower())
        }
        present = [name for name in wanted if name not in absent]
        answers = [json.loads(line) for line in done.stdout.splitlines() if line]
        if len(answers) != len(present):
            raise failure("Docker's daemon does not say which images it has", "the last line says why", refusals)
        return dict(zip(present, answers, strict=True))

    def _ask(self, *arguments: str) -> str:
        done = subprocess.run([*self._docker, *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise failure(f"`docker {arguments[0]}` failed", "the last lines say why", done.stderr.splitlines())
        return done.stdout


def of_project(project: Path, settings: Settings) -> tuple[Images, Kind | None]:
    """The images of a project's stack, and the kind that its containers are made of. Needs the daemon, and no Compose;
    raises EngineError if it cannot be used."""
    obstacle = daemon.look().daemon_obstacle
    if obstacle is not None:
        raise obstacle.error()
    place = ComposeFiles(project, settings, images.registry(settings.images))
    docker = DockerClient()
    return Images(docker, place), used_by(docker, place.stack)


def used_by(docker: DockerClient, stack: str) -> Kind | None:
    """The kind of images of which the containers of the Compose project `stack` are made, in whatever state they are;
    None if there are none."""
    argv = [
        *docker.client_config.docker_cmd,
        *("container", "ls", "--all", "--filter", f"label={STACK_LABEL}={stack}"),
        f'--format={{{{.Label "{IMAGES_LABEL}"}}}}',
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise failure("Docker's daemon does not say what runs", "the last line says why", done.stderr.splitlines())
    kinds = set(done.stdout.split())
    return "offline" if "offline" in kinds else "registry" if "registry" in kinds else None


def bundled(path: Path) -> list[str]:
    """The references of the images in a file that `save` wrote. Raises EngineError for any other file."""
    remedy = "`shopfds images save FILE`, on a machine that has the images, writes such a file"
    try:
        with tarfile.open(path) as archive:
            manifest = archive.extractfile("manifest.json")
            entries = json.load(manifest) if manifest else []
            names = [str(tag) for entry in entries for tag in entry["RepoTags"] or ()]
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        raise EngineError(f"{path} is not a bundle of images", remedy=remedy) from None
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror or error}", remedy=remedy) from None
    if not names:
        raise EngineError(f"{path} holds no image with a name", remedy=remedy)
    return names


def _pump(source: IO[bytes], target: IO[bytes], tell: Callable[[int], None]) -> None:
    while chunk := source.read(CHUNK):
        target.write(chunk)
        tell(len(chunk))


def _bytes(name: str, total: int, sink: Sink) -> Callable[[int], None]:
    """Progress of `total` bytes, told in MiB."""
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        sink(Progress(name, done // MEBIBYTE, max(total, done) // MEBIBYTE + 1, "MiB"))

    return tell


def _versions(made: ImageSet) -> str:
    return ", ".join(f"{server} {images.version_text(version)}" for server, version in made.versions.items())
