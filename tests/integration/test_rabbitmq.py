"""RabbitMQ for real: what the stack's broker does with messages, strangers and damage, and how its steps mend it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from services.common.broker import Broker, BrokerAccessError, broker_report, management
from services.common.broker_proof import (
    ProofTimeoutError,
    RejectedError,
    UnroutableError,
    login,
    prove,
)
from shopfds_ops import console
from shopfds_ops.components.base import Live
from shopfds_ops.components.rabbitmq import RabbitMQ, broker
from shopfds_ops.components.rabbitmq_definitions import user_definitions
from shopfds_ops.engines.base import Completed
from shopfds_ops.errors import StepError
from shopfds_ops.steps import Deadline, Run

pytestmark = pytest.mark.servers


@pytest.fixture
def ours(live: Live) -> Broker:
    return broker(live)


@pytest.fixture
def channel(ours: Broker) -> Iterator[BlockingChannel]:
    credentials = pika.PlainCredentials(ours.user, ours.password)
    parameters = pika.ConnectionParameters(ours.host, ours.port, ours.vhost, credentials)
    with pika.BlockingConnection(parameters) as connection:
        opened = connection.channel()
        opened.confirm_delivery()
        yield opened


def control(live: Live, *arguments: str, stdin: str | None = None) -> Completed:
    node = live.topology.node("rabbitmq")
    done = live.engine.execute(node, ("rabbitmqctl", *arguments), environment=node.environment, stdin=stdin)
    assert done.exit_status == 0, done
    return done


def mend(live: Live) -> dict[str, bool]:
    """Run the steps as `up` does; which of them changed something."""
    run = Run(Deadline(90))
    return {step.name: step.run(run) for step in RabbitMQ().steps(live)}


def get(channel: BlockingChannel, queue: str, message_id: str, seconds: float = 10.0) -> Any:
    """(method, properties) of the message once it is in the queue; it is acknowledged."""
    deadline = Deadline(seconds)
    while not deadline.passed:
        method, properties, _ = channel.basic_get(queue)
        if method is None:
            time.sleep(0.02)
            continue
        channel.basic_ack(method.delivery_tag)
        if properties.message_id == message_id:
            return method, properties
    pytest.fail(f"message {message_id} did not come to queue {queue} within {seconds} s")


def publish(channel: BlockingChannel, queue: str) -> str:
    message_id = uuid.uuid4().hex
    properties = pika.BasicProperties(delivery_mode=2, message_id=message_id)
    channel.basic_publish("shopfds", queue, b"{}", properties, mandatory=True)
    return message_id


def test_a_message_goes_through_confirmed_and_consumed(ours: Broker) -> None:
    for _ in range(5):
        assert 0 < prove(ours) < 5


def test_two_proofs_at_once_take_turns(ours: Broker) -> None:
    with ThreadPoolExecutor(4) as pool:
        seconds = list(pool.map(lambda _: prove(ours, timeout=10), range(4)))
    assert all(figure > 0 for figure in seconds)


def test_what_a_broken_off_proof_left_behind_is_removed(ours: Broker, channel: BlockingChannel) -> None:
    channel.basic_publish("proof", "proof", b"left behind", pika.BasicProperties(delivery_mode=2))
    prove(ours)
    assert channel.basic_get("proof")[0] is None


def test_work_queues_are_quorum_queues_with_a_dead_letter_policy(live: Live, ours: Broker) -> None:
    queues = {queue["name"]: queue for queue in management(ours, f"queues/{ours.vhost}")}
    assert {"ecommerce", "fds", "dead-letter", "proof"} <= set(queues)
    assert {queue["type"] for queue in queues.values()} == {"quorum"}
    (work,) = [policy for policy in management(ours, f"policies/{ours.vhost}") if policy["name"] == "work"]
    assert work["definition"]["delivery-limit"] == live.settings.rabbitmq.delivery_limit


@pytest.mark.parametrize("queue", ["ecommerce", "fds"])
def test_a_worker_declares_its_queue_as_celery_does_without_a_conflict(channel: BlockingChannel, queue: str) -> None:
    declared = channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    assert declared.method.queue == queue


def test_a_rejected_message_is_dead_lettered_with_its_reason(channel: BlockingChannel) -> None:
    message_id = publish(channel, "ecommerce")
    method, properties, _ = channel.basic_get("ecommerce")
    assert properties.message_id == message_id
    channel.basic_reject(method.delivery_tag, requeue=False)
    _, dead = get(channel, "dead-letter", message_id)
    assert dead.headers["x-death"][0]["reason"] == "rejected"
    assert dead.headers["x-death"][0]["queue"] == "ecommerce"


def test_a_message_that_fails_too_often_is_dead_lettered(live: Live, channel: BlockingChannel) -> None:
    message_id = publish(channel, "fds")
    deliveries = 0
    for method, properties, _ in channel.consume("fds", inactivity_timeout=2.0):
        if method is None:
            break
        assert properties.message_id == message_id
        deliveries += 1
        channel.basic_nack(method.delivery_tag, requeue=True)
    channel.cancel()
    limit = live.settings.rabbitmq.delivery_limit
    assert limit <= deliveries <= limit + 1
    method, dead = get(channel, "dead-letter", message_id)
    assert dead.headers["x-death"][0]["reason"] == "delivery_limit"
    assert dead.headers["x-death"][0]["queue"] == "fds"
    assert method.routing_key == "fds"


def test_an_unroutable_message_is_refused(ours: Broker, channel: BlockingChannel) -> None:
    with pytest.raises(UnroutableError, match="exchange 'proof' by key 'nowhere'"):
        prove(ours, routing_key="nowhere")
    with pytest.raises(pika.exceptions.UnroutableError):
        publish(channel, "no-such-queue")


def test_a_message_that_the_broker_does_not_accept_is_named(ours: Broker, channel: BlockingChannel) -> None:
    full = f"test-full-{uuid.uuid4().hex}"
    arguments = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare(full, durable=True, arguments=arguments)
    try:
        with pytest.raises(pika.exceptions.NackError):
            for _ in range(100):
                channel.basic_publish("", full, b"one too many")
        with pytest.raises(RejectedError, match="did not accept"):
            prove(ours, exchange="", routing_key=full)
    finally:
        channel.queue_delete(full)


def test_a_queue_or_exchange_that_is_not_there_is_named(ours: Broker) -> None:
    with pytest.raises(RejectedError, match="no queue 'nowhere'"):
        prove(ours, queue="nowhere")
    with pytest.raises(RejectedError, match="no exchange 'nowhere'"):
        prove(ours, exchange="nowhere")


def test_a_message_that_never_comes_ends_at_the_timeout_and_says_how_far_it_came(
    ours: Broker, channel: BlockingChannel
) -> None:
    elsewhere = channel.queue_declare("", exclusive=True).method.queue
    start = time.monotonic()
    with pytest.raises(ProofTimeoutError, match="confirmed"):
        prove(ours, exchange="", routing_key=elsewhere, timeout=0.5)
    assert time.monotonic() - start < 2


def test_guest_is_refused(ours: Broker) -> None:
    guest = replace(ours, user="guest", password="guest")
    for attempt in (login, prove, broker_report):
        with pytest.raises(BrokerAccessError, match="guest"):
            attempt(guest)


def test_a_wrong_password_and_a_foreign_virtual_host_are_named(ours: Broker) -> None:
    wrong = replace(ours, password="wrong-password")
    for attempt in (login, prove, broker_report):
        with pytest.raises(BrokerAccessError, match=f"'{ours.user}'") as raised:
            attempt(wrong)
        assert "wrong-password" not in str(raised.value)
    with pytest.raises(BrokerAccessError, match="virtual host 'foreign'"):
        login(replace(ours, vhost="foreign"))


def test_our_user_cannot_change_users(ours: Broker) -> None:
    with pytest.raises(BrokerAccessError):
        management(ours, "users")


def test_a_healthy_broker_is_left_alone(live: Live) -> None:
    mend(live)
    assert mend(live) == dict.fromkeys(("rabbitmq.access", "rabbitmq.topology", "rabbitmq.delivery"), False)


def test_a_changed_password_and_a_returned_guest_are_mended(live: Live, ours: Broker) -> None:
    foreign = user_definitions(live.settings, "somebody-elses")
    guest = user_definitions(live.settings.model_copy(update={"rabbitmq": _guest(live)}), "guest")
    control(live, "import_definitions", stdin=json.dumps(foreign))
    control(live, "import_definitions", stdin=json.dumps(guest))
    with pytest.raises(BrokerAccessError):
        login(ours)
    assert RabbitMQ().probe(live, live.topology.node("rabbitmq")) is None
    assert not RabbitMQ().report(live).healthy
    assert mend(live)["rabbitmq.access"]
    login(ours)
    with pytest.raises(BrokerAccessError):
        login(replace(ours, user="guest", password="guest"))


def _guest(live: Live) -> Any:
    return live.settings.rabbitmq.model_copy(update={"user": "guest"})


def test_a_lost_policy_exchange_and_queue_come_back(live: Live, ours: Broker, channel: BlockingChannel) -> None:
    control(live, "clear_policy", "--vhost", ours.vhost, "work")
    channel.exchange_delete("dead-letter")
    channel.queue_delete("proof")
    assert mend(live)["rabbitmq.topology"]
    names = {item["name"] for item in management(ours, f"policies/{ours.vhost}")}
    assert "work" in names
    prove(ours)


def test_a_queue_of_another_type_is_named_and_not_touched(live: Live, channel: BlockingChannel) -> None:
    channel.queue_delete("ecommerce")
    channel.queue_declare("ecommerce", durable=True)
    try:
        channel.basic_publish("", "ecommerce", b"kept")
        with pytest.raises(StepError, match=r"ecommerce .* is classic, and must be quorum"):
            mend(live)
        assert channel.basic_get("ecommerce", auto_ack=True)[2] == b"kept"
    finally:
        channel.queue_delete("ecommerce")
    assert mend(live)["rabbitmq.topology"]


def test_a_queue_that_lost_its_leader_elects_one(live: Live, ours: Broker) -> None:
    """What a kill within a second after the queue was made leads to: a Raft member that starts anew and just waits."""
    control(
        live,
        "eval",
        f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{ours.vhost}">>, queue, <<"proof">>)), '
        "ra:force_delete_server(quorum_queues, amqqueue:get_pid(Q)), "
        f'rabbit_quorum_queue:recover(<<"{ours.vhost}">>, [Q]).',
    )
    with pytest.raises(ProofTimeoutError, match="waiting for queue 'proof'"):
        prove(ours, timeout=1.0)
    assert mend(live)["rabbitmq.delivery"]
    prove(ours)


def test_the_report_fits_a_terminal_and_finds_a_healthy_broker_healthy(live: Live, ours: Broker) -> None:
    mend(live)
    deadline = Deadline(30)
    while None in [queue.ready for queue in broker_report(ours).queues] and not deadline.passed:
        time.sleep(0.2)
    report = RabbitMQ().report(live)
    assert report.healthy, report.problems
    assert {queue.name for queue in report.data.queues} == {"dead-letter", "ecommerce", "fds", "proof"}
    assert all(queue.ready is not None and queue.memory for queue in report.data.queues)
    assert report.data.memory < report.data.memory_limit
    for table in report.tables:
        terminal = console.out()
        with terminal.capture() as captured:
            terminal.print(console.table(table))
        assert max(len(line.rstrip()) for line in captured.get().splitlines()) <= 78


def test_the_report_counts_what_waits_what_is_being_worked_on_and_who_works(
    live: Live, ours: Broker, channel: BlockingChannel
) -> None:
    mend(live)
    channel.queue_purge("fds")
    for _ in range(3):
        publish(channel, "fds")
    channel.basic_qos(prefetch_count=1)
    method, _, _ = next(channel.consume("fds"))
    deadline = Deadline(15)
    seen: tuple[int | None, ...] = ()
    while seen != (2, 1, 1) and not deadline.passed:
        (queue,) = [queue for queue in broker_report(ours).queues if queue.name == "fds"]
        seen = (queue.ready, queue.unacked, queue.consumers)
    channel.basic_ack(method.delivery_tag)
    channel.cancel()
    channel.queue_purge("fds")
    assert seen == (2, 1, 1)


@pytest.mark.parametrize(
    ("alarm", "limit"),
    [("memory", ("set_vm_memory_high_watermark", "absolute", "1MiB")), ("disk", ("set_disk_free_limit", str(10**15)))],
)
def test_an_alarm_that_holds_publishers_back_is_a_problem(live: Live, alarm: str, limit: tuple[str, ...]) -> None:
    found = RabbitMQ().report(live).data
    usual = {"memory": found.memory_limit, "disk": found.disk_free_limit}[alarm]
    control(live, *limit)
    try:
        deadline = Deadline(30)
        while RabbitMQ().report(live).data.alarms != (alarm,) and not deadline.passed:
            time.sleep(0.1)
        (problem,) = RabbitMQ().report(live).problems
        assert f"{alarm} alarm" in problem.what
    finally:
        control(live, *limit[:-1], str(usual))
    deadline = Deadline(30)
    while RabbitMQ().report(live).data.alarms != () and not deadline.passed:
        time.sleep(0.1)
    assert RabbitMQ().report(live).healthy


def test_a_broker_that_is_down_is_a_problem_with_a_remedy(live: Live) -> None:
    node = live.topology.node("rabbitmq")
    live.engine.stop([node])
    try:
        (problem,) = RabbitMQ().report(live).problems
        assert "refused" in problem.what
        assert "shopfds up" in problem.remedy
        said = RabbitMQ().probe(live, node)
        assert said is not None and "refused" in said
    finally:
        live.engine.start([node])
    deadline = Deadline(60)
    while RabbitMQ().probe(live, node) is not None and not deadline.passed:
        time.sleep(0.1)
    assert mend(live)["rabbitmq.access"] is False
    first = broker_report(broker(live))
    assert None not in (first.version, first.uptime, first.memory, first.memory_limit, first.disk_free, first.alarms)
