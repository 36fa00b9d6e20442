"""RabbitMQ as the operator sees it: where it is, what can go wrong with it, and its state as it reports it."""

from __future__ import annotations

import base64
import datetime as dt
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.common import broker_metrics
from services.common.broker_metrics import Scrape

API_TIMEOUT = 2.0
COUNTED_AFTER = 15.0
"""Seconds of uptime after which every queue that has a leader has reported its figures (by default every 5 s)."""


class BrokerError(Exception):
    """The broker did not do what it must; the message names the broker's address and the reason."""


class BrokerUnreachableError(BrokerError):
    """Nothing answers at the address: connection refused, broken, or silent until the deadline."""


class BrokerAccessError(BrokerError):
    """The broker answers, but refuses the user, the password or the virtual host."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and who we are there. Its repr does not show the password."""

    host: str
    port: int
    vhost: str
    user: str
    password: str = field(repr=False)
    management: tuple[str, int]
    """Host and port of the management API."""
    metrics: tuple[str, int]
    """Host and port of the Prometheus plugin."""

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class QueueReport:
    """A queue now. Figures are None until its leader has counted them for the first time, a tick after its election."""

    name: str
    type: str
    state: str
    leader: str | None
    """The node that serves it; None when a quorum queue has none, and so takes and gives nothing."""
    ready: int | None
    unacked: int | None
    consumers: int | None
    memory: int | None
    """Bytes."""


@dataclass(frozen=True, slots=True)
class BrokerReport:
    """The broker now. Sizes in bytes; what it has not measured is None."""

    version: str | None
    uptime: dt.timedelta | None
    memory: int | None
    memory_limit: int | None
    """Over which publishers are held back."""
    disk_free: int | None
    disk_free_limit: int | None
    """Under which publishers are held back."""
    alarms: tuple[str, ...] | None
    """Alarms that hold publishers back now: memory, disk."""
    connections: int | None
    queues: tuple[QueueReport, ...]

    @property
    def leaderless(self) -> tuple[QueueReport, ...]:
        """Quorum queues without a leader: the broker says so, or should long have figures of them and has none."""
        counted = self.uptime is not None and self.uptime.total_seconds() > COUNTED_AFTER
        return tuple(
            queue
            for queue in self.queues
            if queue.type == "quorum" and (queue.leader is None or (counted and queue.ready is None))
        )


def management(broker: Broker, path: str, *, timeout: float = API_TIMEOUT) -> Any:
    """GET `/api/<path>` of the management API, as JSON values. `path` is quoted by the caller.

    Raises BrokerAccessError, BrokerUnreachableError, or BrokerError for any other answer.
    """
    host, port = broker.management
    where = f"RabbitMQ management at {host}:{port}"
    token = base64.b64encode(f"{broker.user}:{broker.password}".encode()).decode()
    request = urllib.request.Request(f"http://{host}:{port}/api/{path}", headers={"Authorization": f"Basic {token}"})
    try:
        return json.loads(_answer(broker, where, request, timeout))
    except ValueError as error:
        raise BrokerError(f"{where} answers /api/{path} with something that is no JSON: {error}") from None


def _scrape(broker: Broker, path: str, timeout: float) -> Scrape:
    """GET `path` of the Prometheus plugin, which asks for no password. Raises like `management`."""
    host, port = broker.metrics
    request = urllib.request.Request(f"http://{host}:{port}{path}")
    return Scrape(_answer(broker, f"RabbitMQ metrics at {host}:{port}", request, timeout).decode(errors="replace"))


def _answer(broker: Broker, where: str, request: urllib.request.Request, timeout: float) -> bytes:
    # No proxy of the environment may come between us and the loopback address, or see the password.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise BrokerAccessError(f"{where} refuses user '{broker.user}' (wrong password or tag)") from None
        raise BrokerError(f"{where} answers {error.code} to {request.selector}") from None
    except urllib.error.URLError as error:
        raise BrokerUnreachableError(f"{where} cannot be reached: {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise BrokerUnreachableError(f"{where} broke off: {error or type(error).__name__}") from None


def broker_report(broker: Broker, *, timeout: float = API_TIMEOUT) -> BrokerReport:
    """The state of the broker and of the queues of our virtual host; `timeout` in seconds for each of three requests.

    What there is comes from the management API, how much there is from the Prometheus plugin.
    Raises BrokerError where one of them does not answer.
    """
    queues = management(broker, f"queues/{urllib.parse.quote(broker.vhost, safe='')}", timeout=timeout)
    node = _scrape(broker, broker_metrics.NODE, timeout)
    objects = _scrape(broker, broker_metrics.PER_OBJECT, timeout)
    uptime = node.figure("rabbitmq_erlang_uptime_seconds")
    alarms = {
        "memory": node.figure("rabbitmq_alarms_memory_used_watermark"),
        "disk": node.figure("rabbitmq_alarms_free_disk_space_watermark"),
    }
    return BrokerReport(
        version=node.labels("rabbitmq_build_info").get("rabbitmq_version"),
        uptime=None if uptime is None else dt.timedelta(seconds=uptime),
        memory=node.count("rabbitmq_process_resident_memory_bytes"),
        memory_limit=node.count("rabbitmq_resident_memory_limit_bytes"),
        disk_free=node.count("rabbitmq_disk_space_available_bytes"),
        disk_free_limit=node.count("rabbitmq_disk_space_available_limit_bytes"),
        alarms=None if None in alarms.values() else tuple(name for name, raised in alarms.items() if raised),
        connections=node.count("rabbitmq_connections"),
        queues=tuple(
            _queue(queue, broker.vhost, objects) for queue in sorted(queues, key=lambda queue: str(queue["name"]))
        ),
    )


def _queue(queue: Mapping[str, Any], vhost: str, objects: Scrape) -> QueueReport:
    name = queue["name"]
    kind = queue.get("type", "classic")
    online = queue.get("online")
    leader = queue.get("leader") if kind == "quorum" else queue.get("node")
    if online is not None and leader not in online:
        leader = None
    return QueueReport(
        name=name,
        type=kind,
        state=queue.get("state", "running" if leader else "down"),
        leader=leader,
        ready=objects.count("rabbitmq_queue_messages_ready", vhost=vhost, queue=name),
        unacked=objects.count("rabbitmq_queue_messages_unacked", vhost=vhost, queue=name),
        consumers=objects.count("rabbitmq_queue_consumers", vhost=vhost, queue=name),
        memory=objects.count("rabbitmq_queue_process_memory_bytes", vhost=vhost, queue=name),
    )
