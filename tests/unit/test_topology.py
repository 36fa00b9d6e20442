"""The topology: nodes found and chosen by their names, with suggestions for those that do not exist."""

from __future__ import annotations

import dataclasses

import pytest

from shopfds_ops.errors import UnknownNameError
from shopfds_ops.topology import Node, Port, Resources, Topology


def node(name: str, component: str, memory: int = 100) -> Node:
    return Node(
        name=name,
        component=component,
        role="node",
        image="redis",
        user="redis",
        command=("true",),
        environment={"A": "1"},
        ports=(Port(name="client", number=7000),),
        resources=Resources(memory=memory),
    )


TOPOLOGY = Topology(
    (
        node("postgres-primary", "postgres", 1000),
        node("postgres-replica", "postgres", 1000),
        node("redis-node-1", "redis-cluster"),
        node("rabbitmq", "rabbitmq", 500),
    )
)


def names(nodes: tuple[Node, ...]) -> list[str]:
    return [node.name for node in nodes]


def test_a_node_is_chosen_by_its_name_and_a_component_brings_all_its_nodes() -> None:
    assert names(TOPOLOGY.select(["redis-node-1"])) == ["redis-node-1"]
    assert names(TOPOLOGY.select(["postgres"])) == ["postgres-primary", "postgres-replica"]


def test_a_name_that_is_both_node_and_component_works() -> None:
    assert names(TOPOLOGY.select(["rabbitmq"])) == ["rabbitmq"]


def test_what_is_chosen_keeps_the_order_of_the_topology_and_comes_once() -> None:
    chosen = TOPOLOGY.select(["rabbitmq", "postgres", "postgres-primary"])
    assert names(chosen) == ["postgres-primary", "postgres-replica", "rabbitmq"]


def test_nothing_named_chooses_nothing() -> None:
    assert TOPOLOGY.select([]) == ()


@pytest.mark.parametrize(("wrong", "near"), [("redis-node1", "redis-node-1"), ("postgress", "postgres")])
def test_an_unknown_name_suggests_the_nearest_node_or_component(wrong: str, near: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        TOPOLOGY.select([wrong])
    assert f"'{wrong}'" in caught.value.what
    assert caught.value.remedy == f"did you mean '{near}'?"
    assert caught.value.exit_code == 2


def test_a_name_that_is_like_none_lists_them_all() -> None:
    with pytest.raises(UnknownNameError) as caught:
        TOPOLOGY.node("zzz")
    assert all(name in caught.value.remedy for name in TOPOLOGY.names)


def test_a_node_knows_its_ports_by_name() -> None:
    assert TOPOLOGY.node("redis-node-1").port("client") == 7000
    with pytest.raises(UnknownNameError, match="redis-node-1"):
        TOPOLOGY.node("redis-node-1").port("cleint")


def test_memory_is_the_sum_of_all_limits() -> None:
    assert TOPOLOGY.memory == 2600
    assert len(TOPOLOGY) == 4


def test_nodes_cannot_be_changed() -> None:
    found = TOPOLOGY.node("rabbitmq")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        found.environment["A"] = "2"  # type: ignore[index]


def test_the_environment_given_may_change_afterwards_without_changing_the_node() -> None:
    given = {"A": "1"}
    made = dataclasses.replace(TOPOLOGY.node("rabbitmq"), environment=given)
    given["A"] = "2"
    assert made.environment["A"] == "1"
