"""Where the local engine keeps data, logs and its socket, and whether that place can be used."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from shopfds_ops.errors import EngineError
from shopfds_ops.settings import DATA_FOLDER, VOLUMES, Settings

SOCKET_PATH_LIMIT = 100
OURS = (VOLUMES, "config", "secrets", "logs", "supervisord.pid", "supervisor.sock")
FREE_SPACE = 512 * 2**20
"""Bytes that must be free before anything is started: servers that run out of space lose more than time."""


def data_folder(project: Path, settings: Settings) -> Path:
    """Where the local engine keeps its data: the setting, else `.shopfds/local` in the project.

    As root the servers run as their own users, who cannot enter a closed folder such as /root: then /var/lib.
    """
    if settings.data is not None:
        return (project / settings.data).resolve()
    inside = project / DATA_FOLDER / "local"
    closed = os.geteuid() == 0 and any(not parent.stat().st_mode & 0o001 for parent in [project, *project.parents])
    if inside.exists() or not closed:
        return inside
    return Path("/var/lib/shopfds") / f"{project.name}-{_digest(project)[:8]}"


def has_data(folder: Path) -> bool:
    """Whether some node has left anything in the data folder; what we may not look into counts as data."""

    def refused(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise error

    try:
        return any(files for _, _, files in os.walk(folder / VOLUMES, onerror=refused))
    except PermissionError:
        return True


def socket_path(folder: Path) -> Path:
    """The kernel allows about 100 characters for a unix socket's path: a deep project gets a short one elsewhere."""
    path = folder / "supervisor.sock"
    if len(str(path)) <= SOCKET_PATH_LIMIT:
        return path
    runtime = Path("/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", tempfile.gettempdir()))
    return runtime / f"shopfds-{os.geteuid()}-{_digest(folder)[:12]}.sock"


def nearest(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(place for place in [path, *path.parents] if place.exists())


def require_usable(folder: Path) -> None:
    """Make the folder, and raise EngineError if it cannot be written or has too little space left."""
    try:
        for made in (folder, folder / "logs"):
            made.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise EngineError(
            f"the data folder {folder} cannot be written: {error.strerror}",
            remedy="make it writable, or choose another one: `shopfds config set data DIR`",
        ) from None
    if free < FREE_SPACE:
        raise EngineError(
            f"the data folder {folder} has {free // 2**20} MiB free; {FREE_SPACE // 2**20} MiB are needed",
            remedy="free some space, or choose another folder: `shopfds config set data DIR`",
        )


def remove(folder: Path) -> None:
    """Remove what we keep in the folder, and the folder itself if nothing else is in it."""
    for name in OURS:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _digest(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()
