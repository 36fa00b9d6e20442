"""RabbitMQ without a broker: what is rendered for which version, the password hash, errors that name the cause."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.broker import (
    Broker,
    BrokerError,
    BrokerReport,
    BrokerUnreachableError,
    QueueReport,
    broker_report,
)
from services.common.broker_metrics import Scrape
from services.common.broker_proof import login, prove
from shopfds_ops import render
from shopfds_ops.components.base import Plan
from shopfds_ops.components.rabbitmq import USER_FILE, RabbitMQ
from shopfds_ops.components.rabbitmq_definitions import definitions, password_hash
from shopfds_ops.secrets import PURPOSES, Secrets
from shopfds_ops.settings import Settings

PASSWORD = "a-secret-that-must-not-show"
VERSIONS = ((3, 9, 29), (3, 10, 8), (3, 13, 7), (4, 1))


@dataclass(frozen=True)
class PaperSite:
    """A site that exists on paper only."""

    rabbitmq: tuple[int, ...]
    name: str = "paper"
    listen: str = "127.0.0.1"
    peers: str = "127.0.0.1/32"

    def host(self, node: str) -> str:
        return "127.0.0.1"

    def volume(self, node: str, volume: str, image: str = "") -> str:
        return f"/paper/volumes/{node}/{volume}"

    def config(self, source: str) -> str:
        return f"/paper/config/{source}"

    def secret(self, node: str, name: str) -> str:
        return f"/paper/secrets/{node}/{name}"

    def version(self, server: str) -> tuple[int, ...]:
        return {"rabbitmq": self.rabbitmq}[server]


def plan(version: tuple[int, ...] = (3, 10, 8), settings: Settings | None = None) -> Plan:
    return Plan(settings or Settings(), PaperSite(version))


def rendered(of: Plan) -> dict[str, str]:
    component = RabbitMQ()
    variables = {"settings": of.settings, "site": of.site, **component.variables(of)}
    sources = render.sources_in(component.templates, component.templates, variables)
    return {name: content.decode() for name, content in render.render(sources).items()}


def secrets() -> Secrets:
    return Secrets(dict.fromkeys(PURPOSES, PASSWORD))


def policies(version: tuple[int, ...]) -> dict[str, dict[str, object]]:
    return {policy["name"]: policy["definition"] for policy in definitions(Settings(), version)["policies"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_rendered_definitions_are_json_and_hold_together(version: tuple[int, ...]) -> None:
    found = json.loads(rendered(plan(version))["rabbitmq/definitions.json"])
    exchanges = {exchange["name"] for exchange in found["exchanges"]}
    queues = {queue["name"] for queue in found["queues"]}
    assert {"ecommerce", "fds"} <= queues
    assert {binding["source"] for binding in found["bindings"]} == exchanges
    assert {binding["destination"] for binding in found["bindings"]} == queues
    for policy in found["policies"]:
        assert any(re.search(policy["pattern"], queue) for queue in queues)
        assert policy["definition"].get("dead-letter-exchange", "dead-letter") in exchanges


@pytest.mark.parametrize("version", VERSIONS)
def test_queues_are_declared_as_celery_declares_them(version: tuple[int, ...]) -> None:
    for queue in definitions(Settings(), version)["queues"]:
        assert queue["arguments"] == {"x-queue-type": "quorum"}
        assert queue["durable"] and not queue["auto_delete"]


def test_the_policy_of_work_queues_takes_work_and_nothing_else() -> None:
    (work,) = [p for p in definitions(Settings(), (3, 10))["policies"] if p["name"] == "work"]
    taken = [name for name in ("ecommerce", "fds", "dead-letter", "proof", "fds2") if re.search(work["pattern"], name)]
    assert taken == ["ecommerce", "fds"]


def test_dead_lettering_is_at_least_once_where_the_version_has_it() -> None:
    assert "dead-letter-strategy" not in policies((3, 9, 29))["work"]
    assert "message-ttl" not in policies((3, 9, 29))["proof"]
    for version in VERSIONS[1:]:
        assert policies(version)["work"]["dead-letter-strategy"] == "at-least-once"
        assert policies(version)["work"]["overflow"] == "reject-publish"


def test_dead_letters_are_kept_however_often_somebody_looks_at_them() -> None:
    assert "dead-letter" not in policies((3, 13, 7))
    assert policies((4, 1))["dead-letter"] == {"delivery-limit": -1}


def test_the_delivery_limit_comes_from_the_settings() -> None:
    settings = Settings.model_validate({"rabbitmq": {"delivery_limit": 3}})
    (work,) = [p for p in definitions(settings, (3, 10))["policies"] if p["name"] == "work"]
    assert work["definition"]["delivery-limit"] == 3


@given(st.text(min_size=1), st.text(min_size=1))
def test_the_password_hash_is_what_rabbitmq_verifies(user: str, password: str) -> None:
    made = password_hash(user, password)
    raw = base64.b64decode(made, validate=True)
    salt, digest = raw[:4], raw[4:]
    assert digest == hashlib.sha256(salt + password.encode()).digest()
    assert made == password_hash(user, password)


def test_two_users_with_one_password_have_different_hashes() -> None:
    assert password_hash("shopfds", PASSWORD) != password_hash("other", PASSWORD)


def test_rendered_files_hold_no_secret() -> None:
    hashed = password_hash("shopfds", PASSWORD)
    for name, content in rendered(plan()).items():
        assert PASSWORD not in content, name
        assert hashed not in content, name


def test_the_secret_file_makes_our_user_alone_and_is_the_same_every_time() -> None:
    files = RabbitMQ().secret_files(plan(), secrets())
    assert files == RabbitMQ().secret_files(plan(), secrets())
    content = json.loads(files[USER_FILE])
    (user,) = content["users"]
    assert (user["name"], user["password_hash"]) == ("shopfds", password_hash("shopfds", PASSWORD))
    assert PASSWORD not in files[USER_FILE]
    assert [permission["vhost"] for permission in content["permissions"]] == ["shopfds"]


def test_the_config_listens_where_the_node_says_and_nowhere_else() -> None:
    moved = plan(settings=Settings.model_validate({"ports": {"offset": 100}}))
    config = rendered(moved)["rabbitmq/rabbitmq.conf"]
    (node,) = RabbitMQ().nodes(moved)
    assert f"listeners.tcp.1 = 127.0.0.1:{node.port('amqp')}\n" in config
    assert f"management.tcp.port = {node.port('management')}\n" in config
    assert f"prometheus.tcp.port = {node.port('prometheus')}\n" in config
    assert len(re.findall(r"127\.0\.0\.1", config)) == 3
    assert node.environment["RABBITMQ_DIST_PORT"] == str(node.port("distribution"))
    assert node.environment["ERL_EPMD_PORT"] == str(node.port("epmd"))


def test_the_instance_of_the_distribution_is_neither_read_nor_written() -> None:
    (node,) = RabbitMQ().nodes(plan())
    for text in (*node.environment.values(), *rendered(plan()).values(), *node.command):
        assert "/etc/rabbitmq" not in text
        assert "/var/lib/rabbitmq" not in text
        assert "/var/log/rabbitmq" not in text
    for name in ("HOME", "RABBITMQ_MNESIA_BASE", "RABBITMQ_LOG_BASE", "RABBITMQ_ADVANCED_CONFIG_FILE"):
        assert node.environment[name].startswith("/paper/volumes/rabbitmq/data")


def test_publishers_are_held_back_before_the_nodes_memory_is_used_up() -> None:
    of = plan(settings=Settings.model_validate({"rabbitmq": {"memory": 2048}}))
    found = re.search(r"vm_memory_high_watermark.absolute = (\d+)MiB", rendered(of)["rabbitmq/rabbitmq.conf"])
    (node,) = RabbitMQ().nodes(of)
    assert found is not None
    assert 0 < int(found[1]) < node.resources.memory


# -- the client side ---------------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[Broker]:
    """An address where something accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        yield Broker(address[0], address[1], "shopfds", "shopfds", PASSWORD, address, address)


@pytest.fixture
def closed() -> Broker:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    return Broker(address[0], address[1], "shopfds", "shopfds", PASSWORD, address, address)


def test_the_password_is_not_in_a_brokers_repr(closed: Broker) -> None:
    assert PASSWORD not in repr(closed)


def test_a_refused_connection_is_named_with_its_address(closed: Broker) -> None:
    for attempt in (login, prove, broker_report):
        with pytest.raises(BrokerUnreachableError, match=rf"127\.0\.0\.1:{closed.port}.*refused") as raised:
            attempt(closed)
        assert PASSWORD not in str(raised.value)


@pytest.mark.parametrize("attempt", [login, prove, broker_report])
def test_a_silent_server_costs_no_more_than_the_timeout(attempt: object, silent: Broker) -> None:
    assert callable(attempt)
    start = time.monotonic()
    with pytest.raises(BrokerUnreachableError):
        attempt(silent, timeout=0.3)
    assert time.monotonic() - start < 1.5


def test_an_address_that_does_not_exist_is_an_error_of_ours(closed: Broker) -> None:
    nowhere = replace(closed, host="no-such-host.invalid", management=("no-such-host.invalid", 1))
    for attempt in (login, prove, broker_report):
        with pytest.raises(BrokerError, match=r"no-such-host\.invalid"):
            attempt(nowhere, timeout=5.0)


def queue(**changes: object) -> QueueReport:
    usual = QueueReport("fds", "quorum", "running", "rabbit@localhost", 0, 0, 0, 1000)
    return replace(usual, **changes)


def report(uptime: float | None, *queues: QueueReport) -> BrokerReport:
    since = None if uptime is None else dt.timedelta(seconds=uptime)
    return BrokerReport("3.10.8", since, None, None, None, None, None, None, queues)


def test_a_queue_that_was_not_counted_yet_is_not_called_leaderless() -> None:
    fresh = queue(ready=None, unacked=None, consumers=None, memory=None)
    assert report(None, fresh).leaderless == ()
    assert report(3, fresh).leaderless == ()
    assert report(3600, queue()).leaderless == ()


def test_a_queue_without_leader_or_without_figures_after_a_while_is_leaderless() -> None:
    uncounted, unled = queue(ready=None), queue(leader=None)
    assert report(3600, uncounted, queue()).leaderless == (uncounted,)
    assert report(3, unled).leaderless == (unled,)
    assert report(3600, queue(type="classic", ready=None)).leaderless == ()


# -- figures -----------------------------------------------------------------------------------------------------

SCRAPE = """\
# TYPE rabbitmq_queue_messages_ready gauge
# HELP rabbitmq_queue_messages_ready Messages ready to be delivered to consumers
rabbitmq_queue_messages_ready{vhost="shopfds",queue="fds"} 7
rabbitmq_queue_messages_ready{vhost="other",queue="fds"} 8
rabbitmq_queue_messages_ready{vhost="shopfds",queue="ecommerce",queue_type="quorum"} 0
rabbitmq_queue_consumer_utilisation{vhost="shopfds",queue="fds"} NaN
rabbitmq_process_resident_memory_bytes 1.5e8
rabbitmq_erlang_uptime_seconds 19.941 1795448750000
rabbitmq_resident_memory_limit_bytes undefined
rabbitmq_build_info{rabbitmq_version="4.1.0",erlang_version="27.3"} 1
"""


def test_a_figure_is_found_by_its_name_and_labels() -> None:
    scrape = Scrape(SCRAPE)
    assert scrape.count("rabbitmq_queue_messages_ready", vhost="shopfds", queue="fds") == 7
    assert scrape.count("rabbitmq_queue_messages_ready", vhost="other", queue="fds") == 8
    assert scrape.count("rabbitmq_queue_messages_ready", vhost="shopfds", queue="ecommerce") == 0
    assert scrape.count("rabbitmq_process_resident_memory_bytes") == 150_000_000
    assert scrape.figure("rabbitmq_erlang_uptime_seconds") == 19.941
    assert scrape.labels("rabbitmq_build_info")["rabbitmq_version"] == "4.1.0"


def test_what_was_not_measured_is_unknown_and_not_zero() -> None:
    scrape = Scrape(SCRAPE)
    assert scrape.count("rabbitmq_queue_messages_ready", vhost="shopfds", queue="proof") is None
    assert scrape.count("rabbitmq_queue_consumers", vhost="shopfds", queue="fds") is None
    assert scrape.figure("rabbitmq_queue_consumer_utilisation", vhost="shopfds", queue="fds") is None
    assert scrape.count("rabbitmq_resident_memory_limit_bytes") is None
    assert Scrape("").labels("rabbitmq_build_info") == {}


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 2**53))
def test_a_queue_of_any_name_is_found(name: str, ready: int) -> None:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    scrape = Scrape(f'ready{{vhost="v",queue="{escaped}"}} {ready}\nready{{vhost="w",queue="{escaped}"}} 1\n')
    assert scrape.count("ready", vhost="v", queue=name) == ready


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    assert Scrape(text).figure("no such name") is None
