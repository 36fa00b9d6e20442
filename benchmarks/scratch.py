"""A project for one measurement: its own folder and ports, and nothing left of it afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from shopfds_ops.engines import packages, strays
from shopfds_ops.stack import Stack

SHOPFDS = Path(sys.executable).with_name("shopfds")
OFFSET = "1400"


class Scratch:
    """A context manager; raises RuntimeError if a command in it fails."""

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="shopfds-bench-"))
        self.folder.chmod(0o755)
        self.shopfds("config", "set", "ports.offset", OFFSET)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shopfds("down", "--volumes", "--yes")
        shutil.rmtree(self.folder)

    def shopfds(self, *arguments: str) -> str:
        """Run the CLI; returns what it printed on stdout."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SHOPFDS_")}
        done = subprocess.run(
            [str(SHOPFDS), *arguments],
            env=environment | {"SHOPFDS_PROJECT_DIR": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"shopfds {' '.join(arguments)} failed: {done.stderr}")
        return done.stdout

    def stack(self) -> Stack:
        return Stack.open(project=self.folder)

    @staticmethod
    def installed(server: str) -> Path:
        """The folder of a server's programs."""
        return packages.find()[server].folder

    @staticmethod
    def end(stack: str) -> None:
        """End the processes that were started under the mark `stack`."""
        strays.end(stack, None)
