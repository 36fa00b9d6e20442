"""Settings and topology become files: deterministic, atomic, diffable, and never over somebody's hand edit."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2

from shopfds_ops.errors import RenderError
from shopfds_ops.files import write_atomically
from shopfds_ops.settings import MANIFEST

SUFFIX = ".j2"
FILE_MODE = 0o644

Kind = Literal["new", "changed", "edited", "orphan", "same"]


@dataclass(frozen=True, slots=True)
class Source:
    """One file to render: the template's name below `templates/`, the target below the output folder, its variables."""

    template: str
    target: str
    variables: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """What rendering would do to one file. `edited`: its content is neither ours of last time nor ours of now."""

    path: str
    kind: Kind
    diff: str = ""


def templates_folder() -> Path:
    """The templates: beside the package in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).resolve().parent
    inside = package / "templates"
    return inside if inside.is_dir() else package.parent / "templates"


def sources_in(folder: str, target: str, variables: Mapping[str, Any]) -> list[Source]:
    """Every template of `folder`, to be rendered into the folder `target` under its own name.

    Names that begin with an underscore are parts that others include.
    """
    found = sorted((templates_folder() / folder).iterdir())
    return [
        Source(f"{folder}/{path.name}", f"{target}/{path.name.removesuffix(SUFFIX)}", variables)
        for path in found
        if path.is_file() and not path.name.startswith("_")
    ]


def render(sources: Sequence[Source]) -> dict[str, bytes]:
    """The content of every target. Raises RenderError for a missing variable or a broken template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_folder()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  configuration files, not HTML
    )
    rendered: dict[str, bytes] = {}
    for source in sources:
        try:
            text = environment.get_template(source.template).render(source.variables)
        except jinja2.TemplateError as error:
            raise RenderError(
                f"template {source.template} cannot be rendered: {error}",
                remedy="a template may use only variables that its component gives",
            ) from None
        rendered[source.target] = text.encode()
    return rendered


class Output:
    """The folder that holds rendered files, and the manifest of what we wrote there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def compare(self, rendered: Mapping[str, bytes]) -> list[Change]:
        """What writing `rendered` would do, file by file."""
        manifest = self._manifest()
        changes = []
        for path, content in sorted(rendered.items()):
            present = self._read(path)
            if present is None:
                changes.append(Change(path, "new", _diff(path, b"", content)))
            elif present == content:
                changes.append(Change(path, "same"))
            else:
                ours = manifest.get(path) == _hash(present)
                changes.append(Change(path, "changed" if ours else "edited", _diff(path, present, content)))
        changes += [
            Change(path, "orphan") for path in sorted(manifest) if path not in rendered and self._read(path) is not None
        ]
        return changes

    def write(self, rendered: Mapping[str, bytes], *, force: bool = False) -> list[Change]:
        """Write what is new or changed. A file edited by hand is kept; with `force` it is moved to `*.edited`.

        Orphans (ours, but no longer rendered) are removed if nobody edited them. Returns what was found.
        """
        changes = self.compare(rendered)
        manifest = self._manifest()
        hashes = {path: _hash(content) for path, content in rendered.items()}
        try:
            for change in changes:
                target = self.folder / change.path
                if change.kind == "edited":
                    if not force:
                        # The manifest keeps what we wrote last, so that the edit stays visible as an edit.
                        hashes[change.path] = manifest.get(change.path, "")
                        continue
                    target.replace(target.with_name(f"{target.name}.edited"))
                if change.kind in ("new", "changed", "edited"):
                    write_atomically(target, rendered[change.path], mode=FILE_MODE)
                elif change.kind == "orphan" and manifest[change.path] == _hash(self._read(change.path) or b""):
                    target.unlink()
                    for folder in target.relative_to(self.folder).parents[:-1]:
                        with suppress(OSError):  # something else is in it
                            (self.folder / folder).rmdir()
            if hashes != manifest:
                text = json.dumps({"version": 1, "files": hashes}, indent=1, sort_keys=True) + "\n"
                write_atomically(self.folder / MANIFEST, text.encode(), mode=FILE_MODE)
        except OSError as error:
            raise RenderError(
                f"{self.folder} cannot be written: {error.strerror or error}", remedy="make the folder writable"
            ) from None
        return changes

    def edited(self, rendered: Mapping[str, bytes]) -> dict[str, bytes]:
        """The files of `rendered` that somebody edited by hand, as they are."""
        manifest = self._manifest()
        found: dict[str, bytes] = {}
        for path, content in rendered.items():
            present = self._read(path)
            if present is not None and present != content and manifest.get(path) != _hash(present):
                found[path] = present
        return found

    def _read(self, path: str) -> bytes | None:
        file = self.folder / path
        return file.read_bytes() if file.is_file() else None

    def _manifest(self) -> dict[str, str]:
        try:
            files = dict(json.loads((self.folder / MANIFEST).read_text())["files"])
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, OSError):
            # Without it every file counts as edited: nothing is overwritten until somebody looked.
            return {}
        return {str(path): str(digest) for path, digest in files.items()}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _diff(path: str, before: bytes, after: bytes) -> str:
    lines = difflib.unified_diff(
        before.decode(errors="replace").splitlines(), after.decode().splitlines(), f"a/{path}", f"b/{path}", lineterm=""
    )
    return "\n".join(lines)
