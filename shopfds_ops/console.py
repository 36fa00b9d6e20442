"""The one place that owns rich: tables, progress, the [OK] [FAIL] [WARNING] [SKIP] markers, and the JSON envelope.

stdout carries data, stderr everything else; all output is ASCII.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from shopfds_ops.errors import ShopfdsError
from shopfds_ops.events import Event, Note, Progress, Sink, TaskEvent
from shopfds_ops.result import Level, Message, Result, Table

Format = Literal["table", "json"]

PIPED_WIDTH = 400
"""Columns when output is not a terminal: wide enough that nothing is cropped or wrapped."""
BAR_WIDTH = 30

PLAIN = box.Box(
    "    \n    \n -  \n    \n    \n    \n    \n    \n",
    ascii=True,
)
"""A rule below the header and nothing else: ten columns still fit a terminal of 80."""

MARKERS: dict[Level, tuple[str, str]] = {
    "ok": ("[OK]", "green"),
    "fail": ("[FAIL]", "bold red"),
    "warning": ("[WARNING]", "yellow"),
    "skip": ("[SKIP]", "cyan"),
    "info": ("", ""),
}
PHASES: dict[str, Level] = {"done": "ok", "changed": "ok", "failed": "fail", "skipped": "skip"}


def _console(stream: TextIO) -> Console:
    width = None if stream.isatty() else PIPED_WIDTH
    return Console(file=stream, width=width, highlight=False, emoji=False, markup=False, soft_wrap=not stream.isatty())


def out() -> Console:
    """Where data goes."""
    return _console(sys.stdout)


def err() -> Console:
    """Where progress, messages and errors go."""
    return _console(sys.stderr)


def ascii_only(text: str) -> str:
    """`text` with every other character escaped, so that any terminal can show it."""
    return text.encode("ascii", "backslashreplace").decode()


def marked(level: Level, text: str) -> Text:
    """A line with its marker."""
    marker, style = MARKERS[level]
    line = Text()
    if marker:
        line.append(f"{marker} ", style=style)
    line.append(ascii_only(text))
    return line


def show(result: Result, format: Format) -> None:
    """Print a result: tables and messages for people, or the JSON envelope for programs."""
    if format == "json":
        sys.stdout.write(json.dumps(result.envelope(), indent=2, ensure_ascii=True) + "\n")
        return
    for item in result.tables:
        out().print(table(item))
    for message in result.messages:
        say(message)


def table(content: Table) -> RenderableType:
    """A table for people. Cells are folded, never cropped."""
    grid = RichTable(box=PLAIN, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in content.columns:
        right = column.startswith(">")
        grid.add_column(ascii_only(column.lstrip(">")), overflow="fold", justify="right" if right else "left")
    for row in content.rows:
        grid.add_row(*[_cell(cell) for cell in row])
    parts: list[RenderableType] = [Text(ascii_only(content.title), style="bold")] if content.title else []
    if content.rows or not content.caption:
        parts.append(grid)
    if content.caption:
        parts.append(Text(ascii_only(content.caption), style="dim"))
    parts.append(Text(""))
    return Group(*parts)


def _cell(cell: str) -> Text:
    for marker, style in MARKERS.values():
        if marker and cell.startswith(marker):
            return Text(ascii_only(cell), style=style)
    return Text(ascii_only(cell))


def say(message: Message) -> None:
    """One message on stderr, with its remedy."""
    console = err()
    console.print(marked(message.level, message.text), soft_wrap=True)
    if message.remedy:
        console.print(f"    -> {ascii_only(message.remedy)}", soft_wrap=True)


def fail(error: ShopfdsError) -> None:
    """An error as the operator should read it: what happened, and what to do next."""
    say(Message("fail", error.what, error.remedy))
    if error.details:
        err().print(ascii_only(error.details), soft_wrap=True)


def watch(look: Callable[[], Result], interval: float, format: Format) -> None:
    """Show a result again and again until Ctrl-C: in place on a terminal, else one after the other."""
    with contextlib.suppress(KeyboardInterrupt):  # how one stops watching
        _watch(look, interval, format)


def _watch(look: Callable[[], Result], interval: float, format: Format) -> None:
    while True:
        result = look()
        if sys.stdout.isatty() and format == "table":
            out().clear()
        if format == "json":
            sys.stdout.write(json.dumps(result.envelope()) + "\n")  # one line for each look
        else:
            show(result, format)
        sys.stdout.flush()
        time.sleep(interval)


@contextmanager
def progress() -> Iterator[Sink]:
    """A sink that shows events as they come: live on a terminal, one plain line for each ended task elsewhere."""
    board = _Board()
    if not (sys.stderr.isatty() and sys.stdout.isatty()):
        yield board.plain
        return
    console = err()
    with Live(get_renderable=board.render, console=console, refresh_per_second=8, transient=True) as live:
        board.permanent = live.console.print
        yield board.live


class _Board:
    """What is going on now. Ended tasks are printed once and leave the board."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: dict[str, tuple[str, float]] = {}
        self._bars: dict[str, tuple[Progress, float]] = {}
        self.permanent = err().print

    def plain(self, event: Event) -> None:
        line = self._ended(event)
        if line is not None:
            err().print(line)

    def live(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, Progress):
                started = self._bars.get(event.name, (event, time.monotonic()))[1]
                self._bars[event.name] = (event, started)
                if event.total and event.done >= event.total:
                    del self._bars[event.name]
            elif isinstance(event, TaskEvent):
                if event.phase == "started":
                    self._tasks[event.name] = (event.detail, time.monotonic())
                else:
                    self._tasks.pop(event.name, None)
        line = self._ended(event)
        if line is not None:
            self.permanent(line)

    def _ended(self, event: Event) -> Text | None:
        if isinstance(event, Note):
            return marked("info" if event.level == "info" else event.level, event.text)
        if isinstance(event, TaskEvent) and event.phase in PHASES:
            detail = f": {event.detail}" if event.detail else ""
            return marked(PHASES[event.phase], f"{event.name:<28} {event.seconds:6.1f} s{detail}")
        return None

    def render(self) -> RenderableType:
        now = time.monotonic()
        with self._lock:
            lines = [
                Text(ascii_only(f"  ...  {name:<28} {now - since:6.1f} s  {detail}"), no_wrap=True, overflow="crop")
                for name, (detail, since) in self._tasks.items()
            ]
            lines += [self._bar(bar, now - since) for bar, since in self._bars.values()]
        return Group(*lines)

    @staticmethod
    def _bar(bar: Progress, elapsed: float) -> Text:
        share = bar.done / bar.total if bar.total else 0.0
        filled = int(share * BAR_WIDTH)
        total = f"/{bar.total}" if bar.total else ""
        rate = f"{bar.done / elapsed:,.0f}/s" if elapsed > 0.5 else ""
        blocks = "#" * filled + "." * (BAR_WIDTH - filled)
        line = f"  [{blocks}] {share:4.0%} {bar.name} {bar.done}{total} {bar.unit} {rate}"
        return Text(ascii_only(line), no_wrap=True)
