"""What a command costs before it does anything: `--help` against a bare Typer app, and `status` of a running stack."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.row import Row
from benchmarks.scratch import SHOPFDS, Scratch

HELP_LIMIT = 1.5
STATUS_LIMIT = 1.0
RUNS = 9

BARE = """
import typer
app = typer.Typer()

@app.command()
def one(name: str = "x") -> None:
    "Do one thing."

@app.command()
def two() -> None:
    "Do another."

app()
"""


def help_row() -> Row:
    """The two in turn; the ratio is the median of the pairs'."""
    pairs = [(_timed([str(SHOPFDS), "--help"]), _timed([sys.executable, "-c", BARE, "--help"])) for _ in range(RUNS)]
    ours, bare = (_median([pair[side] for pair in pairs]) for side in (0, 1))
    return Row("shopfds --help against a bare Typer app, s", ours, bare, _median([a / b for a, b in pairs]), HELP_LIMIT)


def status_row(scratch: Scratch) -> Row:
    """The whole report of a healthy stack, with the data that it holds at the time."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        scratch.shopfds("status")
        times.append(time.perf_counter() - start)
    return Row("shopfds status, s", _median(times), None, None, STATUS_LIMIT)


def _timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
