"""The graph of steps: order, refusals, failures, and what check, apply and verify promise."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shopfds_ops.errors import ShopfdsError, StepError, UnknownNameError
from shopfds_ops.events import Event, Progress, Sink, TaskEvent, discard
from shopfds_ops.steps import Deadline, Gate, Run, Step, Task, check_graph, run_graph, select

LIMIT = 20.0
"""Seconds after which a test gives up; none of them needs nearly as many."""


@dataclass
class Thing:
    """A live server as a step sees it: something does not hold until it is mended."""

    holds: bool = False
    mends: bool = True
    checks: int = 0
    applied: int = 0

    def check(self) -> str | None:
        self.checks += 1
        return None if self.holds else "the thing is broken"

    def apply(self, _: Run) -> None:
        self.applied += 1
        self.holds = self.mends

    def step(self, name: str, *requires: str, settle: float = 0.2) -> Step:
        return Step(name, self.check, self.apply, requires=requires, settle=settle)


@dataclass
class Listener:
    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def phases(self, name: str) -> list[str]:
        return [event.phase for event in self.events if isinstance(event, TaskEvent) and event.name == name]


def failing(what: str) -> Callable[[Run], None]:
    def apply(_: Run) -> None:
        raise StepError(what, remedy="mend it")

    return apply


def run(*tasks: Task, sink: Sink = discard, seconds: float = LIMIT) -> list[str]:
    return [outcome.name for outcome in run_graph(tasks, Deadline(seconds), sink)]


# -- check, apply, verify ----------------------------------------------------------------------------------------


def test_a_step_that_holds_is_not_applied() -> None:
    thing, listener = Thing(holds=True), Listener()
    [outcome] = run_graph([thing.step("a")], Deadline(LIMIT), listener)
    assert not outcome.changed
    assert (thing.checks, thing.applied) == (1, 0)
    assert listener.phases("a") == ["done"]


def test_a_step_that_does_not_hold_is_applied_once_and_verified() -> None:
    thing, listener = Thing(), Listener()
    [outcome] = run_graph([thing.step("a")], Deadline(LIMIT), listener)
    assert outcome.changed
    assert (thing.checks, thing.applied) == (2, 1)
    assert listener.phases("a") == ["started", "changed"]
    started = next(event for event in listener.events if isinstance(event, TaskEvent))
    assert started.detail == "the thing is broken"


def test_a_step_that_does_not_hold_after_apply_is_an_error_that_says_what_is_missing() -> None:
    thing = Thing(mends=False)
    with pytest.raises(StepError) as caught:
        run(thing.step("a"))
    assert "a: applied, but it does not hold" in caught.value.what
    assert "the thing is broken" in caught.value.what
    assert caught.value.remedy
    assert thing.applied == 1


def test_a_step_gets_time_to_settle_after_apply() -> None:
    answers = iter(["broken", "not yet", "not yet", None])
    assert run(Step("a", lambda: next(answers), discard_apply, settle=LIMIT)) == ["a"]
    assert next(answers, "asked to the end") == "asked to the end"


class RefusedError(Exception):
    """What the client of some server raises."""


def test_what_a_server_refuses_while_a_step_is_applied_is_an_error_that_names_the_step() -> None:
    def refuse(_: Run) -> None:
        raise RefusedError("max_connections\nreached")

    with pytest.raises(StepError) as caught:
        run(Step("postgres.roles", lambda: "not there", refuse, faults=(RefusedError,)))
    assert caught.value.what == "postgres.roles: the server said: max_connections reached"
    assert caught.value.remedy


def test_a_check_that_the_server_refuses_does_not_hold() -> None:
    answers = iter([RefusedError("loading"), "missing", RefusedError("loading"), None])

    def check() -> str | None:
        answer = next(answers)
        if isinstance(answer, RefusedError):
            raise answer
        return answer

    listener = Listener()
    assert run(Step("a", check, discard_apply, faults=(RefusedError,)), sink=listener) == ["a"]
    assert listener.phases("a") == ["started", "changed"]


def test_a_step_that_works_for_long_knows_how_long_the_command_may_take() -> None:
    left: list[float] = []
    answers = iter(["missing", None])
    run(Step("a", lambda: next(answers), lambda run: left.append(run.deadline.left)), seconds=5)
    assert 0 < left[0] <= 5


def test_a_failure_ends_the_pause_of_a_step_that_works_for_long() -> None:
    paused = threading.Event()

    def work(run: Run) -> None:
        paused.set()
        run.pause(LIMIT)

    def fail(_: Run) -> None:
        paused.wait(LIMIT)
        raise StepError("the disk is full")

    listener = Listener()
    start = time.monotonic()
    with pytest.raises(StepError, match="the disk is full"):
        run(Step("long", lambda: "missing", work), Step("broken", lambda: "missing", fail), sink=listener)
    assert time.monotonic() - start < LIMIT / 2
    assert listener.phases("long") == ["started", "failed"]


def discard_apply(_: Run) -> None:
    return


# -- order -------------------------------------------------------------------------------------------------------


def test_what_is_required_is_done_first_however_they_are_listed() -> None:
    made: list[str] = []

    def step(name: str, *requires: str) -> Step:
        answers = iter(["missing", None])
        return Step(name, lambda: next(answers), lambda _: made.append(name), requires=requires)

    assert run(step("c", "b"), step("b", "a"), step("a")) == ["a", "b", "c"]
    assert made == ["a", "b", "c"]


def test_steps_that_do_not_need_each_other_run_side_by_side() -> None:
    both = threading.Barrier(2, timeout=LIMIT)

    def meet(_: Run) -> None:
        both.wait()

    def step(name: str) -> Step:
        answers = iter(["missing", None])
        return Step(name, lambda: next(answers), meet)

    assert sorted(run(step("a"), step("b"))) == ["a", "b"]


@settings(deadline=None, max_examples=40)
@given(data=st.data(), size=st.integers(0, 8))
def test_any_graph_without_a_cycle_is_done_completely_and_in_order(data: st.DataObject, size: int) -> None:
    names = [f"step-{number}" for number in range(size)]
    needs = {
        name: tuple(data.draw(st.lists(st.sampled_from(names[:index]), unique=True))) if index else ()
        for index, name in enumerate(names)
    }
    things = {name: Thing() for name in names}
    tasks = data.draw(st.permutations([things[name].step(name, *needs[name]) for name in names]))
    done = run(*tasks)
    assert sorted(done) == sorted(names)
    assert all(done.index(need) < done.index(name) for name in names for need in needs[name])
    assert all(thing.applied == 1 for thing in things.values())


# -- refusals ----------------------------------------------------------------------------------------------------


def test_steps_that_wait_for_each_other_are_refused_and_nothing_runs() -> None:
    things = [Thing(), Thing(), Thing()]
    tasks = [things[0].step("a", "c"), things[1].step("b", "a"), things[2].step("c", "b")]
    with pytest.raises(StepError, match="a -> c -> b -> a"):
        run(*tasks)
    assert not any(thing.checks for thing in things)


def test_a_step_that_waits_for_itself_is_refused() -> None:
    with pytest.raises(StepError, match="a -> a"):
        check_graph([Thing().step("a", "a")])


def test_an_unknown_requirement_is_refused_with_a_suggestion_and_nothing_runs() -> None:
    thing = Thing()
    with pytest.raises(UnknownNameError) as caught:
        run(thing.step("postgres.roles"), Thing().step("data.migrate", "postgres.rolls"))
    assert "postgres.rolls" in caught.value.what
    assert "data.migrate" in caught.value.what
    assert "postgres.roles" in caught.value.remedy
    assert thing.checks == 0


def test_selecting_a_step_brings_what_it_requires_and_nothing_else() -> None:
    tasks = [Thing().step("a"), Thing().step("b", "a"), Thing().step("c", "b"), Thing().step("d")]
    assert [task.name for task in select(tasks, ["b"])] == ["a", "b"]
    assert [task.name for task in select(tasks, [])] == []


def test_selecting_an_unknown_step_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        select([Thing().step("redis-cluster.create")], ["redis-cluster.creat"])
    assert "redis-cluster.create" in caught.value.remedy


# -- failures ----------------------------------------------------------------------------------------------------


def test_the_first_failure_is_raised_and_stops_what_would_come_after_it() -> None:
    after, listener = Thing(), Listener()
    broken = Step("broken", lambda: "not there", failing("the disk is full"))
    with pytest.raises(StepError, match="the disk is full"):
        run(broken, after.step("after", "broken"), sink=listener)
    assert after.checks == 0
    assert listener.phases("broken") == ["started", "failed"]
    assert listener.phases("after") == []


def test_a_failure_ends_a_gate_that_still_waits() -> None:
    waiting = Gate("slow", lambda: "not ready", lambda: None, timeout=LIMIT)
    broken = Step("broken", lambda: "not there", failing("the disk is full"))
    start = time.monotonic()
    with pytest.raises(StepError, match="the disk is full"):
        run(waiting, broken)
    assert time.monotonic() - start < LIMIT / 2


def test_a_failure_reaches_a_long_step_at_its_next_sign_of_progress() -> None:
    moved = threading.Event()
    listener = Listener()

    def work(run: Run) -> None:
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            run.sink(Progress("rows", 1, 2))
            moved.set()
        raise AssertionError("nobody stopped it")

    def fail(_: Run) -> None:
        moved.wait(LIMIT)
        raise StepError("the disk is full")

    long, broken = Step("long", lambda: "rows are missing", work), Step("broken", lambda: "not there", fail)
    with pytest.raises(StepError, match="the disk is full"):
        run(long, broken, sink=listener)
    assert listener.phases("long") == ["started", "failed"]


def test_an_error_that_is_not_ours_is_raised_as_it_is_after_the_others_have_ended() -> None:
    ended: list[str] = []
    entered = threading.Event()

    def slow(_: Run) -> None:
        entered.set()
        ended.append("slow")

    def bug(_: Run) -> None:
        entered.wait(LIMIT)
        raise ZeroDivisionError

    answers = iter(["missing", None])
    with pytest.raises(ZeroDivisionError):
        run(Step("slow", lambda: next(answers), slow), Step("bug", lambda: "missing", bug))
    assert ended == ["slow"]


def test_an_interrupt_in_the_listener_stops_a_waiting_gate() -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, TaskEvent) and event.phase == "done":
            raise KeyboardInterrupt

    waiting = Gate("slow", lambda: "not ready", lambda: None, timeout=LIMIT)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(waiting, Thing(holds=True).step("quick"), sink=interrupt)
    assert time.monotonic() - start < LIMIT / 2


def test_every_end_carries_how_long_it_took() -> None:
    listener = Listener()
    run(Thing().step("a"), sink=listener)
    last = listener.events[-1]
    assert isinstance(last, TaskEvent)
    assert last.seconds > 0


# -- gates -------------------------------------------------------------------------------------------------------


def test_a_gate_that_holds_at_once_says_nothing_but_done() -> None:
    listener = Listener()
    assert run(Gate("node", lambda: None, lambda: None, timeout=1), sink=listener) == ["node"]
    assert listener.phases("node") == ["done"]


def test_a_gate_waits_until_its_probe_holds() -> None:
    answers = iter(["no", "not yet", None])
    assert run(Gate("node", lambda: next(answers), lambda: None, timeout=LIMIT)) == ["node"]


def test_a_gate_out_of_time_names_the_node_the_assertion_and_the_last_words() -> None:
    said = iter(["refused", "starting up", *["16380 of 16384 slots covered"] * 1000])
    with pytest.raises(StepError) as caught:
        run(Gate("redis-node-3", lambda: next(said), lambda: None, timeout=0.3))
    assert caught.value.what.startswith("redis-node-3 was not ready after")
    assert "16380 of 16384 slots covered" in caught.value.what
    assert "redis-node-3" in caught.value.remedy


def test_a_gate_waits_no_longer_than_the_whole_command() -> None:
    start = time.monotonic()
    with pytest.raises(StepError, match="not ready"):
        run(Gate("node", lambda: "no", lambda: None, timeout=LIMIT), seconds=0.2)
    assert time.monotonic() - start < LIMIT / 2


def test_a_gate_gives_up_at_once_when_the_process_will_not_run() -> None:
    gate = Gate("rabbitmq", lambda: "refused", lambda: "exit status 78; it said last: no space", timeout=LIMIT)
    start = time.monotonic()
    with pytest.raises(StepError) as caught:
        run(gate)
    assert time.monotonic() - start < LIMIT / 2
    assert "rabbitmq does not run: exit status 78; it said last: no space" in caught.value.what
    assert "rabbitmq" in caught.value.remedy
    assert caught.value.details == "refused"


def test_a_failed_process_does_not_matter_while_the_probe_holds() -> None:
    assert run(Gate("node", lambda: None, lambda: "dead", timeout=1)) == ["node"]


@given(seconds=st.floats(-5, 0.0))
def test_a_deadline_never_has_less_than_nothing_left(seconds: float) -> None:
    deadline = Deadline(seconds)
    assert deadline.passed
    assert deadline.left == 0


def test_all_step_errors_are_errors_for_the_operator() -> None:
    assert issubclass(StepError, ShopfdsError)
    assert StepError("x").exit_code == 1
