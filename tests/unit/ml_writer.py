"""Changes a store and dies by SIGKILL after its n-th step on the disk: run with folder, key, action, version, n."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from services.ml.store import Store

STEPS = {"open", "write", "flush", "fchmod", "chmod", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir"}
"""Whatever of the operating system and of files a store may use; one that is opened for writing is empty by then."""


def main() -> None:
    folder, key, action, version, die_after = *sys.argv[1:5], int(sys.argv[5])
    store = Store(Path(folder), key)
    pointer = store.pointer()
    manifest, data = store.read(version)
    steps = 0

    def watch(_: FrameType, event: str, function: Any) -> None:
        nonlocal steps
        if event == "c_return" and function.__name__ in STEPS:
            steps += 1
            if steps == die_after:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)
    if action == "add":
        store.add(data, manifest)
    elif action == "switch":
        store.switch(version, expected=pointer)
    else:
        store.rollback()


if __name__ == "__main__":
    main()
