"""The planner of Redis Cluster repair, over views from a model of the cluster: it converges, and gives up no keys."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.cluster_nodes import ALL_SLOTS, NodeView, Peer, SlotRange, mask_of, ranges_of
from shopfds_ops.components.redis_actions import (
    Action,
    AddSlots,
    Create,
    Failover,
    Forget,
    Meet,
    Open,
    Replicate,
    Reset,
)
from shopfds_ops.components.redis_repair import Decision, plan, unlinked
from tests.unit.redis_model import ADDRESSES, NAMES, Model, RefusedError, whole

ROUNDS = 40
EXAMPLES = 150
ONE, TWO, THREE, FOUR, FIVE, SIX = NAMES  # the model makes 1 to 3 masters, and 4 to 6 their replicas


def converge(model: Model, rounds: int = ROUNDS, stop_after: int | None = None) -> Decision:
    """Observe, plan, apply until nothing is left to do; fails when it takes too long or gives up keys on the way."""
    model.gossip()
    before: tuple[Action, ...] = ()
    applied = 0
    for _ in range(rounds):
        decision = plan(model.views(), ADDRESSES, before)
        if not decision.actions:
            return decision
        for action in decision.actions:
            if applied == stop_after:
                return decision
            held, owned = model.stored, model.owned
            with contextlib.suppress(RefusedError):
                model.apply(action)
            applied += 1
            assert not (held & ~model.stored) & ~owned, f"{action} gave up keys that nobody else owns"
        model.gossip()
        before = decision.actions
    raise AssertionError(f"no end after {rounds} rounds: {decision}")


def healthy() -> Model:
    model = Model()
    converge(model)
    model.store(ALL_SLOTS)
    assert whole(model)
    return model


def decided(model: Model) -> tuple[Action, ...]:
    model.gossip()
    return plan(model.views(), ADDRESSES).actions


def test_blank_nodes_are_made_a_cluster() -> None:
    assert decided(Model()) == (Create(NAMES),)


def test_a_healthy_cluster_needs_nothing() -> None:
    assert plan(healthy().views(), ADDRESSES).whole


@pytest.mark.parametrize("moment", range(20))
def test_a_creation_that_was_cut_off_is_finished(moment: int) -> None:
    model = Model()
    model.halfway(moment)
    assert converge(model).whole
    assert whole(model)


def test_a_creation_that_was_cut_off_before_all_slots_had_an_owner_starts_over() -> None:
    model = Model()
    model.halfway(2)
    assert decided(model) == (Reset(ONE), Reset(TWO))


def test_a_creation_that_was_cut_off_is_not_started_over_once_something_is_stored() -> None:
    model = Model()
    model.halfway(1)
    model.store(1)
    assert not any(isinstance(action, Reset) for action in decided(model))
    assert converge(model).whole
    assert whole(model)
    assert model.stored == 1


def test_a_lost_replica_is_forgotten_by_all_then_met_then_attached_to_its_old_master() -> None:
    model = healthy()
    master = model.by_id[model.servers[FOUR].master].name
    gone = model.servers[FOUR].id
    model.wipe(FOUR)
    first = decided(model)
    assert first == tuple(Forget(name, gone) for name in NAMES if name != FOUR)
    for action in first:
        model.apply(action)
    assert decided(model) == (Open(FOUR),)
    model.apply(Open(FOUR))
    (introduction,) = decided(model)
    assert isinstance(introduction, Meet)
    assert introduction.other == FOUR
    model.apply(introduction)
    assert decided(model) == (Replicate(FOUR, master),)


def test_a_lost_master_is_first_replaced_by_its_replica() -> None:
    model = healthy()
    replica = next(server.name for server in model.servers.values() if server.master == model.servers[ONE].id)
    model.wipe(ONE)
    assert decided(model) == (Failover(replica, takeover=False),)
    assert converge(model).whole
    assert whole(model)
    assert model.stored == ALL_SLOTS
    assert model.servers[ONE].master == model.servers[replica].id


def test_a_blank_node_stays_closed_while_a_replica_takes_it_for_its_old_master() -> None:
    model = healthy()
    model.wipe(ONE)
    model.gossip()
    assert Open(ONE) not in decided(model)
    assert model.stored == ALL_SLOTS
    model.apply(Open(ONE))
    model.gossip()
    assert model.stored != ALL_SLOTS, "the model does not show the danger"


def test_a_replica_waits_until_it_has_heard_of_its_master() -> None:
    model = healthy()
    master = model.servers[FOUR].master
    model.wipe(FOUR)
    for _ in range(3):
        for action in decided(model):
            model.apply(action)
    assert decided(model) == (Replicate(FOUR, model.by_id[master].name),)
    del model.servers[FOUR].table[master]
    decision = plan(model.views(), ADDRESSES)
    assert decision.actions == ()
    assert FOUR in decision.waiting


def test_an_election_that_does_not_help_is_followed_by_a_takeover() -> None:
    model = healthy()
    model.wipe(ONE)
    (election,) = decided(model)
    assert isinstance(election, Failover)
    (next_try,) = plan(model.views(), ADDRESSES, [election]).actions
    assert next_try == Failover(election.node, takeover=True)


def test_where_most_masters_are_lost_their_replicas_take_over() -> None:
    model = healthy()
    model.wipe(ONE)
    model.wipe(TWO)
    actions = decided(model)
    assert [type(action) for action in actions] == [Failover, Failover]
    assert all(isinstance(action, Failover) and action.takeover for action in actions)
    assert converge(model).whole
    assert model.stored == ALL_SLOTS


def test_a_shard_that_lost_both_nodes_becomes_an_empty_one_and_the_others_keep_their_keys() -> None:
    model = healthy()
    lost = model.servers[ONE].slots
    replica = next(server.name for server in model.servers.values() if server.master == model.servers[ONE].id)
    model.wipe(ONE)
    model.wipe(replica)
    assert converge(model).whole
    assert whole(model)
    assert model.stored == ALL_SLOTS & ~lost


def test_a_second_replica_moves_to_the_master_that_has_none() -> None:
    model = healthy()
    moved = next(server for server in model.servers.values() if server.master == model.servers[ONE].id)
    model.apply(Replicate(moved.name, TWO))
    (action,) = decided(model)
    assert isinstance(action, Replicate)
    assert action.master == ONE
    assert converge(model).whole
    assert whole(model)


def test_slots_without_owner_go_first_to_the_node_that_still_holds_keys() -> None:
    model = healthy()
    lost = model.servers[ONE].slots
    for server in model.servers.values():
        for entry in server.table.values():
            entry.slots &= ~lost
    model.servers[ONE].slots = 0
    assert decided(model) == (AddSlots(ONE, ranges_of(lost)),)
    assert converge(model).whole
    assert model.stored == ALL_SLOTS


def test_a_blank_node_does_not_get_the_slots_of_one_that_still_holds_their_keys() -> None:
    model = healthy()
    for server in model.servers.values():
        for entry in server.table.values():
            entry.slots &= ~model.servers[THREE].slots
    model.servers[THREE].slots = 0
    model.wipe(ONE)
    assert converge(model).whole
    assert whole(model)
    assert model.stored == ALL_SLOTS


def test_two_strangers_with_keys_for_the_same_slots_are_left_to_the_operator() -> None:
    model = healthy()
    model.wipe(SIX)
    model.servers[SIX].slots = 1
    model.servers[SIX].keys = 1
    decision = plan(model.views(), ADDRESSES)
    assert decision.actions == ()
    assert decision.blocked is not None
    assert "both hold keys" in decision.blocked.what
    assert SIX in decision.blocked.where


def test_a_stranger_with_the_same_slots_but_no_keys_is_reset() -> None:
    model = healthy()
    model.wipe(SIX)
    model.servers[SIX].slots = 1
    assert decided(model) == (Reset(SIX),)
    assert converge(model).whole
    assert whole(model)


def test_a_live_node_that_is_not_ours_is_neither_forgotten_nor_used() -> None:
    views = list(healthy().views())
    stranger = Peer("f" * 40, "10.0.0.9", 7009, frozenset({"master"}), "", 9, True)
    views[0] = dataclasses.replace(views[0], others=(*views[0].others, stranger))
    decision = plan(views, ADDRESSES)
    assert decision.actions == ()
    assert "10.0.0.9:7009" in decision.waiting


def test_a_node_that_moved_to_another_address_is_introduced_again() -> None:
    views = list(healthy().views())
    moved = views[3].id
    for index, view in enumerate(views):
        others = tuple(
            dataclasses.replace(peer, host="10.0.0.4", connected=False) if peer.id == moved else peer
            for peer in view.others
        )
        views[index] = dataclasses.replace(view, others=others)
    (action,) = plan(views, ADDRESSES).actions
    assert isinstance(action, Meet)
    assert action.other == FOUR


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda view: dataclasses.replace(view, status="down", said="refused", me=None), "does not answer: refused"),
        (lambda view: dataclasses.replace(view, status="silent", said="timed out"), "does not answer: timed out"),
        (lambda view: dataclasses.replace(view, status="failing", said="MISCONF"), "does not answer: MISCONF"),
        (lambda view: dataclasses.replace(view, status="loading", said="loading"), "does not answer: loading"),
        (lambda view: dataclasses.replace(view, cluster_ok=False), "says the state of the cluster is fail"),
        (
            lambda view: dataclasses.replace(
                view, others=tuple(dataclasses.replace(p, flags=p.flags | {"fail?"}) for p in view.others)
            ),
            "counts redis-node-1 as failed",
        ),
        (
            lambda view: dataclasses.replace(view, others=tuple(dataclasses.replace(p, slots=()) for p in view.others)),
            "has not learnt the role and slots of",
        ),
    ],
)
def test_what_settles_by_itself_is_waited_for(change: Callable[[NodeView], NodeView], says: str) -> None:
    views = list(healthy().views())
    views[1] = change(views[1])
    decision = plan(views, ADDRESSES)
    assert decision.actions == ()
    assert not decision.whole
    assert f"{TWO} {says}" in decision.waiting


def test_a_refused_password_is_the_operators_to_mend() -> None:
    views = list(healthy().views())
    views[1] = NodeView(TWO, "127.0.0.1", 7001, "refused", "WRONGPASS invalid username-password pair")
    decision = plan(views, ADDRESSES)
    assert decision.blocked is not None
    assert "WRONGPASS" in decision.blocked.what
    assert ".env" in decision.blocked.remedy


def test_a_replica_that_is_still_copying_is_not_linked() -> None:
    views = list(healthy().views())
    assert unlinked(views) is None
    views[4] = dataclasses.replace(views[4], linked=False)
    assert FIVE in str(unlinked(views))


def _ranges(pair: tuple[int, int]) -> SlotRange:
    return SlotRange(*sorted(pair))


@given(st.lists(st.tuples(st.integers(0, 16383), st.integers(0, 16383)).map(_ranges), max_size=8))
def test_masks_and_ranges_say_the_same(ranges: list[SlotRange]) -> None:
    mask = mask_of(ranges)
    slots = {slot for first, last in ranges for slot in range(first, last + 1)}
    assert {slot for first, last in ranges_of(mask) for slot in range(first, last + 1)} == slots
    assert mask.bit_count() == len(slots)
    assert all(b.first > a.last + 1 for a, b in zip(ranges_of(mask), ranges_of(mask)[1:], strict=False))


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    moment=st.integers(0, 20),
    stored=st.lists(st.integers(0, 16383), max_size=6),
    accidents=st.lists(
        st.tuples(st.sets(st.sampled_from(NAMES), min_size=1, max_size=6), st.integers(0, 12)), max_size=4
    ),
)
def test_any_half_made_cluster_whose_nodes_lose_their_data_between_half_made_repairs_becomes_whole(
    moment: int, stored: list[int], accidents: list[tuple[set[str], int]]
) -> None:
    model = Model()
    model.halfway(moment)
    for slot in stored:
        model.store(1 << slot)
    for wiped, actions in accidents:
        for name in wiped:
            model.wipe(name)
        converge(model, stop_after=actions)
    decision = converge(model)
    assert decision.whole, str(decision)
    assert whole(model)


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_whatever_an_operator_broke_ends_whole_or_with_a_question_and_never_loses_keys(data: st.DataObject) -> None:
    model = healthy()
    names = st.sampled_from(NAMES)
    for _ in range(data.draw(st.integers(1, 6))):
        server = model.servers[data.draw(names)]
        match data.draw(st.sampled_from(["wipe", "forget", "replicate", "promote", "drop", "claim"])):
            case "wipe":
                model.wipe(server.name)
            case "forget":
                with contextlib.suppress(RefusedError):
                    model.apply(Forget(server.name, model.servers[data.draw(names)].id))
            case "replicate":
                other = model.servers[data.draw(names)]
                if server.master and other.id in server.table:
                    with contextlib.suppress(RefusedError):
                        model.apply(Replicate(server.name, other.name))
            case "promote":
                if server.master in server.table:
                    model.apply(Failover(server.name, takeover=True))
            case "drop":
                server.slots &= ~(ALL_SLOTS >> data.draw(st.integers(0, 16383)))
            case "claim":
                server.slots |= 0 if server.master else ALL_SLOTS >> data.draw(st.integers(0, 16383))
    decision = converge(model)
    assert decision.whole or decision.blocked is not None, str(decision)
    if decision.whole:
        assert model.owned == ALL_SLOTS
