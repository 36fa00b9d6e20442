"""Ports and processes of this machine: who has what we need, and what belongs to which stack."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from shopfds_ops.engines import ports, strays
from shopfds_ops.errors import PortTakenError
from shopfds_ops.topology import Node, Port

HOST = "127.0.0.1"
LISTEN = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


def node(name: str, *numbers: int) -> Node:
    listed = tuple(Port(name=f"port-{number}", number=number) for number in numbers)
    return Node(name=name, component="x", role="node", image="redis", user="redis", command=("true",), ports=listed)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free() -> int:
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


Listener = Callable[[str, str], tuple[psutil.Process, int]]


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Starts a process that listens, as a node of a stack; ends it afterwards."""
    started: list[subprocess.Popen[str]] = []

    def start(stack: str, name: str) -> tuple[psutil.Process, int]:
        environment = os.environ | {"SHOPFDS_STACK": stack, "SHOPFDS_NODE": name}
        process = subprocess.Popen(
            [sys.executable, "-c", LISTEN],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout
        return psutil.Process(process.pid), int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_port_is_free_until_somebody_listens(taken: int, free: int) -> None:
    assert ports.is_free(HOST, free)
    assert not ports.is_free(HOST, taken)


def test_free_ports_are_no_reason_to_refuse(free: int) -> None:
    ports.require_free(HOST, [node("a", free), node("b")], "/here", 0)


def test_a_taken_port_is_refused_with_the_node_the_holder_and_the_way_out(taken: int) -> None:
    with pytest.raises(PortTakenError) as caught:
        ports.require_free(HOST, [node("redis-node-1", taken)], "/here", 200)
    assert f"port {taken}" in caught.value.what
    assert "redis-node-1" in caught.value.what
    assert f"(pid {os.getpid()})" in caught.value.what
    assert "`shopfds config set ports.offset 300`" in caught.value.remedy


def test_further_taken_ports_are_counted(taken: int) -> None:
    with socket.create_server((HOST, 0)) as another, pytest.raises(PortTakenError, match="1 more port"):
        ports.require_free(HOST, [node("a", taken), node("b", another.getsockname()[1])], "/here", 0)


def test_a_port_of_another_stack_names_that_stack_and_its_node(listener: Listener) -> None:
    _, number = listener("/elsewhere", "rabbitmq")
    with pytest.raises(PortTakenError, match=r"rabbitmq of the stack .*/elsewhere"):
        ports.require_free(HOST, [node("rabbitmq", number)], "/here", 0)


def test_a_process_is_known_by_the_stack_and_node_that_started_it(listener: Listener) -> None:
    process, _ = listener("/elsewhere", "rabbitmq")
    assert strays.owner(process) == ("/elsewhere", "rabbitmq")
    assert strays.owner(psutil.Process()) is None


def test_strays_are_found_and_ended_for_the_nodes_named_and_no_other(listener: Listener, tmp_path: Path) -> None:
    stack = str(tmp_path)
    one, _ = listener(stack, "one")
    two, _ = listener(stack, "two")
    other, _ = listener("/elsewhere", "one")
    assert strays.find(stack, None) == {"one": one.pid, "two": two.pid}
    assert strays.end(stack, {"one"}) == ["one"]
    assert strays.find(stack, None) == {"two": two.pid}
    assert strays.owner(other) == ("/elsewhere", "one")
    assert strays.end(stack, {"one"}) == []
