"""Changes a store and dies by SIGKILL before its n-th change of the disk: run with folder, key, action, versions, n."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"}


def main() -> None:
    folder, key, action, version, die_at = *sys.argv[1:5], int(sys.argv[5])
    from services.ml.store import Store

    store = Store(Path(folder), key)
    pointer = store.pointer()
    source = store.read(version)
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in CHANGES and folder in os.fsdecode(str(arguments[0])):
            seen += 1
            if seen == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    if action == "add":
        store.add(source[1], source[0])
    elif action == "switch":
        store.switch(version, expected=pointer)
    else:
        store.rollback()


if __name__ == "__main__":
    main()
