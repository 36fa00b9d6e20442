"""A command that takes long: followed line by line while it runs, ended with us, and its last lines if it fails."""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from shopfds_ops.errors import EngineError

LAST_LINES = 12
PATIENCE = 3.0
"""Seconds in which a command that is told to end does so."""
NO_SPACE = ("no space left on device", "disk quota exceeded", "not enough free space")
SPACE_REMEDY = "free some: `docker system df` says what Docker uses, `docker system prune` removes what is unused"


def watch(
    argv: Sequence[str],
    follow: Callable[[str], None],
    *,
    what: str,
    remedy: str,
    stdin: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a command, and give `follow` each line of its output. `stdin` is a file it reads.

    Raises EngineError (`what` failed, and the remedy) with the last lines if its exit status is not 0.
    """
    with (
        (stdin or Path(os.devnull)).open("rb") as source,
        ended_with_us(argv, stdin=source, stderr=subprocess.STDOUT, environment=environment) as process,
    ):
        assert process.stdout is not None  # noqa: S101  a pipe, by the call above
        last = follow_lines(process.stdout, follow)
    if process.returncode != 0:
        raise failure(what, remedy, last)


@contextmanager
def ended_with_us(
    argv: Sequence[str],
    *,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stderr: int = subprocess.PIPE,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command with its output piped to us, and wait for it; if we are interrupted, it ends first."""
    process = subprocess.Popen(
        argv, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, env=os.environ | dict(environment or {})
    )
    try:
        yield process
    except BaseException:
        with suppress(PermissionError):  # sudo belongs to root; what it runs ends when it can tell us nothing more
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
        raise
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        process.wait()


def follow_lines(output: IO[bytes], follow: Callable[[str], None]) -> deque[str]:
    """Give `follow` each line until the output ends; returns the last ones."""
    last: deque[str] = deque(maxlen=LAST_LINES)
    for raw in output:
        line = raw.decode(errors="replace").rstrip()
        if line:
            last.append(line)
            follow(line)
    return last


def failure(what: str, remedy: str, lines: Sequence[Any]) -> EngineError:
    """The error for a command that failed; a full disk is named as what it is."""
    details = "\n".join(str(line) for line in lines)
    if lacks_space(details):
        return EngineError(f"{what}: no space left on the disk", remedy=SPACE_REMEDY, details=details)
    return EngineError(what, remedy=remedy, details=details)


def lacks_space(said: str) -> bool:
    """Whether what a command said tells of a full disk."""
    return any(sign in said.lower() for sign in NO_SPACE)
