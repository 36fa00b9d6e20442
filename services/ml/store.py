"""Where models are kept: sealed versions that never change, and one sealed pointer to the promoted one.

    versions/<version>/model.pickle, manifest.json     made elsewhere, moved here whole
    current.json                                       the promoted version and those before it, replaced whole

Readers need no lock, in any process: a rename is all there is to see. Writers hold the lock for the moment of it. What
a killed writer left behind is not seen by anyone, and removed by the next.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import ValidationError

from services.ml.errors import ArtefactError, ChangedMeanwhileError, ModelError, TamperedError, UnknownVersionError
from services.ml.manifest import Findings, Manifest, Seal

State = Literal["current", "former", "candidate", "broken"]
Stamp = tuple[int, int, int] | None

VERSION = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")
LOCK_SECONDS = 30
UNFINISHED = ".new-"
"""How files and folders begin that are not moved to their place yet."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which version is promoted, and which were before it, the latest last."""

    version: str
    former: tuple[str, ...]
    changed_at: str


@dataclass(frozen=True, slots=True)
class Listed:
    """A stored version. `problem` says why a broken one cannot be loaded; then it may have no manifest."""

    version: str
    state: State
    manifest: Manifest | None
    problem: str = ""


class Store:
    """The folder of models, and the key that seals them."""

    def __init__(self, folder: Path, key: str) -> None:
        """The folder is made by the first `add`. Raises ModelError for a missing key."""
        self.folder = folder
        self._seal = Seal(key)
        self._versions = folder / "versions"
        self._pointer = folder / "current.json"

    def add(self, model: bytes, findings: Findings) -> Manifest:
        """Keep a new version; it is a candidate.

        Raises ModelError if the folder cannot be written.
        """
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        manifest = Manifest(
            **findings.model_dump(include=set(Findings.model_fields)),
            version=f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
            created_at=now,
            model_sha256=hashlib.sha256(model).hexdigest(),
        )
        with self._writing():
            self._versions.mkdir(mode=0o755, exist_ok=True)
            unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.folder))
            unfinished.chmod(0o755)
            _write(unfinished / "model.pickle", model)
            _write(unfinished / "manifest.json", self._seal.close("manifest", manifest.model_dump(mode="json")))
            _sync(unfinished)
            unfinished.rename(self._versions / manifest.version)
            _sync(self._versions)
        return manifest

    def manifest(self, version: str) -> Manifest:
        """What is written down about it. Raises UnknownVersionError, TamperedError."""
        if not VERSION.fullmatch(version) or not (self._versions / version).is_dir():
            raise UnknownVersionError(f"there is no model {version!r}", remedy="`shopfds ml list` shows those that are")
        content = self._seal.open("manifest", _read(self._versions / version / "manifest.json"), f"{version}/manifest")
        try:
            manifest = Manifest.model_validate(content)
        except ValidationError as error:
            # Sealed by us, so by another version of this program.
            raise ArtefactError(f"the manifest of {version} cannot be read: {error}", remedy="train anew") from None
        if manifest.version != version:
            raise TamperedError(
                f"{version} holds the manifest of {manifest.version}", remedy="restore it, or train anew"
            )
        return manifest

    def read(self, version: str) -> tuple[Manifest, bytes]:
        """A version whose seal, hash and compatibility were proved; the bytes are those that were proved.

        Raises UnknownVersionError, TamperedError, IncompatibleError.
        """
        manifest = self.manifest(version)
        model = _read(self._versions / version / "model.pickle")
        if hashlib.sha256(model).hexdigest() != manifest.model_sha256:
            raise TamperedError(
                f"the model file of {version} is not the one that was sealed", remedy="restore it, or train anew"
            )
        manifest.check_compatible()
        return manifest, model

    def pointer(self) -> Pointer | None:
        """The promoted version; None before the first promotion. Raises TamperedError."""
        try:
            data = self._pointer.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArtefactError(f"{self._pointer} cannot be read: {error.strerror}") from None
        content = self._seal.open("pointer", data, self._pointer.name)
        return Pointer(content["version"], tuple(content["former"]), content["changed_at"])

    def stamp(self) -> Stamp:
        """Something that differs after every change of the pointer; None where there is none. Costs one stat."""
        try:
            found = self._pointer.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def versions(self) -> tuple[Listed, ...]:
        """Every version, newest first; each was proved as if it were to be loaded. Raises TamperedError (pointer)."""
        pointer = self.pointer()
        names = [path.name for path in self._versions.iterdir()] if self._versions.is_dir() else []
        return tuple(self._listed(name, pointer) for name in sorted(names, reverse=True))

    def switch(self, version: str, *, expected: Pointer | None) -> Pointer:
        """Promote a version that can be loaded, if the pointer is still `expected`.

        Raises ChangedMeanwhileError, UnknownVersionError, TamperedError, IncompatibleError.
        """
        with self._writing():
            self.read(version)
            self._insist(expected)
            if expected is None:
                former: tuple[str, ...] = ()
            elif expected.version == version:
                return expected
            else:
                former = (*(name for name in expected.former if name != version), expected.version)
            return self._point(version, former)

    def rollback(self) -> Pointer:
        """Back to the version that was promoted before. Raises UnknownVersionError if there is none, TamperedError."""
        with self._writing():
            pointer = self.pointer()
            if pointer is None or not pointer.former:
                raise UnknownVersionError("no model was promoted before this one", remedy="promote one by its version")
            *older, before = pointer.former
            self.read(before)
            return self._point(before, tuple(older))

    def _insist(self, expected: Pointer | None) -> None:
        """A pointer that was tampered with counts as none: a promotion is what mends it."""
        try:
            found = self.pointer()
        except TamperedError:
            found = None
        if found != expected:
            now = found.version if found else "none"
            raise ChangedMeanwhileError(f"the promoted model is {now} by now: nothing was changed", remedy="try again")

    def _point(self, version: str, former: tuple[str, ...]) -> Pointer:
        pointer = Pointer(version, former, dt.datetime.now(dt.UTC).isoformat())
        content = asdict(pointer) | {"former": list(former)}
        unfinished = self.folder / f"{UNFINISHED}{self._pointer.name}"
        _write(unfinished, self._seal.close("pointer", content))
        unfinished.replace(self._pointer)
        _sync(self.folder)
        return pointer

    def _listed(self, version: str, pointer: Pointer | None) -> Listed:
        state: State = "candidate"
        if pointer and pointer.version == version:
            state = "current"
        elif pointer and version in pointer.former:
            state = "former"
        try:
            manifest = self.manifest(version)
        except ModelError as error:
            return Listed(version, "broken", None, error.what)
        try:
            self.read(version)
        except ArtefactError as error:
            return Listed(version, "broken", manifest, error.what)
        return Listed(version, state, manifest)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock", timeout=LOCK_SECONDS):
                for leftover in self.folder.glob(f"{UNFINISHED}*"):
                    _remove(leftover)
                yield
        except Timeout:
            raise ModelError(
                f"{self.folder} has been locked for {LOCK_SECONDS} s by another writer", remedy="try again"
            ) from None
        except OSError as error:
            raise ModelError(
                f"{error.filename or self.folder} cannot be written: {error.strerror}",
                remedy="make the folder of the models writable, on a disk with room",
            ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TamperedError(
            f"{path} cannot be read: {error.strerror}", remedy="restore the file, or train anew"
        ) from None


def _write(path: Path, data: bytes) -> None:
    """Everybody may read it: what protects it is its seal. Durable when it returns."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
