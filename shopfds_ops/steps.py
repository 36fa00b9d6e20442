"""Initialization as an explicit graph of steps: check the live server, apply what is missing, verify that it holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Protocol

from shopfds_ops.errors import ShopfdsError, StepError, UnknownNameError
from shopfds_ops.events import Event, Progress, Sink, TaskEvent, discard

POLL_INTERVAL = 0.1
GIVEN_UP = "given up, because another step failed or the command was interrupted"
AGAIN = "look at `shopfds status` and `shopfds logs`, then run `shopfds up` again"


class Deadline:
    """The moment by which a whole command must be done; tasks ask it how much time is left."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._end


@dataclass(frozen=True, slots=True)
class Run:
    """The command that a task is part of: how long it may take, whether it was given up, and who listens."""

    deadline: Deadline
    cancelled: threading.Event = field(default_factory=threading.Event)
    sink: Sink = discard

    def pause(self, seconds: float = POLL_INTERVAL) -> None:
        """Wait for `seconds`; raises StepError as soon as another step has failed or the command was interrupted."""
        if self.cancelled.wait(seconds):
            raise StepError(GIVEN_UP)


class Task(Protocol):
    """A unit of the graph: runs until it holds, or raises."""

    @property
    def name(self) -> str: ...
    @property
    def requires(self) -> tuple[str, ...]: ...
    def run(self, run: Run) -> bool:
        """Do the work. Returns whether anything was changed."""
        ...


@dataclass(frozen=True)
class Step:
    """One piece of initialization.

    `check` looks at the live server and says what is missing (None: nothing, the step holds).
    `apply` mends it and is safe to repeat. Afterwards `check` is asked again until it holds or time is up.
    """

    name: str
    check: Callable[[], str | None]
    apply: Callable[[Run], None]
    requires: tuple[str, ...] = ()
    settle: float = 30.0
    """Seconds within which `check` must hold after `apply`."""
    faults: tuple[type[Exception], ...] = ()
    """What the client of its server raises. `check` does not hold then, and `apply` has failed."""

    def run(self, run: Run) -> bool:
        missing = self._missing()
        if missing is None:
            return False
        run.sink(TaskEvent(self.name, "started", missing))
        try:
            self.apply(run)
        except self.faults as error:
            raise StepError(f"{self.name}: the server said: {_one_line(error)}", remedy=AGAIN) from error
        settled = Deadline(min(self.settle, run.deadline.left))
        while (missing := self._missing()) is not None:
            if run.cancelled.is_set():
                raise StepError(f"{self.name}: {GIVEN_UP}")
            if settled.passed:
                raise StepError(
                    f"{self.name}: applied, but it does not hold after {settled.seconds:.0f} s: {missing}", remedy=AGAIN
                )
            run.cancelled.wait(POLL_INTERVAL)
        return True

    def _missing(self) -> str | None:
        try:
            return self.check()
        except self.faults as error:
            return _one_line(error)


@dataclass(frozen=True)
class Gate:
    """Waits until a probe holds, and names the node, the assertion and the last thing the server said when it does not.

    `probe` returns None when it holds, else what is not so yet. `failed` returns a reason to give up at once
    (the process will not run), else None.
    """

    name: str
    probe: Callable[[], str | None]
    failed: Callable[[], str | None]
    timeout: float
    requires: tuple[str, ...] = ()

    def run(self, run: Run) -> bool:
        limit = Deadline(min(self.timeout, run.deadline.left))
        waited = False
        while (said := self.probe()) is not None:
            reason = self.failed()
            if reason is not None:
                raise StepError(
                    f"{self.name} does not run: {reason}", remedy=f"see `shopfds logs {self.name}`", details=said
                )
            if limit.passed:
                raise StepError(
                    f"{self.name} was not ready after {limit.seconds:.0f} s: {said}",
                    remedy=f"see `shopfds logs {self.name}`; `shopfds up --timeout SECONDS` waits longer",
                )
            if run.cancelled.is_set():
                raise StepError(f"{self.name}: {GIVEN_UP}")
            if not waited:
                run.sink(TaskEvent(self.name, "started", said))
                waited = True
            run.cancelled.wait(POLL_INTERVAL)
        return waited


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one task of the graph ended."""

    name: str
    changed: bool
    seconds: float
    error: ShopfdsError | None = None


def check_graph(tasks: Sequence[Task]) -> None:
    """Refuse a graph that names an unknown task or has a cycle."""
    by_name = {task.name: task for task in tasks}
    for task in tasks:
        for need in task.requires:
            if need not in by_name:
                raise UnknownNameError(f"step (required by {task.name})", need, by_name)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise StepError(f"the steps wait for each other: {' -> '.join([*path, name])}")
        if name not in done:
            for need in by_name[name].requires:
                visit(need, (*path, name))
            done.add(name)

    for name in by_name:
        visit(name, ())


def select(tasks: Sequence[Task], wanted: Iterable[str]) -> list[Task]:
    """The tasks called `wanted` and everything they require, in the given order."""
    by_name: Mapping[str, Task] = {task.name: task for task in tasks}
    keep: set[str] = set()
    queue = list(wanted)
    while queue:
        name = queue.pop()
        if name not in by_name:
            raise UnknownNameError("step", name, by_name)
        if name not in keep:
            keep.add(name)
            queue.extend(by_name[name].requires)
    return [task for task in tasks if task.name in keep]


def run_graph(tasks: Sequence[Task], deadline: Deadline, sink: Sink) -> list[Outcome]:
    """Run every task as soon as what it requires is done, side by side. The first failure stops the rest.

    Raises the first failure after every running task has ended; KeyboardInterrupt likewise cancels first.
    """
    check_graph(tasks)
    waiting = {task.name: task for task in tasks}
    listener = sink

    def guarded(event: Event) -> None:
        # A step reports its progress here: the place where a long one learns that it shall not go on.
        if cancelled.is_set() and isinstance(event, Progress):
            raise StepError(GIVEN_UP)
        listener(event)

    running: dict[Future[Outcome], str] = {}
    done: set[str] = set()
    outcomes: list[Outcome] = []
    cancelled = threading.Event()
    run = Run(deadline, cancelled, guarded)
    failure: ShopfdsError | None = None

    def work(task: Task) -> Outcome:
        start = time.monotonic()
        try:
            changed = task.run(run)
        except ShopfdsError as error:
            return Outcome(task.name, False, time.monotonic() - start, error)
        return Outcome(task.name, changed, time.monotonic() - start)

    with ThreadPoolExecutor(max_workers=max(1, len(tasks)), thread_name_prefix="step") as pool:
        try:
            while waiting or running:
                if failure is None:
                    for name in [n for n, t in waiting.items() if done.issuperset(t.requires)]:
                        running[pool.submit(work, waiting.pop(name))] = name
                if not running:
                    break
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    running.pop(future)
                    outcome = future.result()
                    outcomes.append(outcome)
                    if outcome.error is None:
                        done.add(outcome.name)
                        sink(TaskEvent(outcome.name, "changed" if outcome.changed else "done", "", outcome.seconds))
                    else:
                        sink(TaskEvent(outcome.name, "failed", outcome.error.what, outcome.seconds))
                        failure = failure or outcome.error
                        cancelled.set()
        except BaseException:
            cancelled.set()
            raise
    if failure is not None:
        raise failure
    return outcomes


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
