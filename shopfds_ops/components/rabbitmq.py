"""RabbitMQ: one broker with quorum queues, dead letters and no guest; proven by a message that goes through it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.common.broker import (
    BrokerAccessError,
    BrokerError,
    BrokerReport,
    BrokerUnreachableError,
    broker_report,
)
from services.common.broker_proof import login
from shopfds_ops.components import rabbitmq_definitions as definitions
from shopfds_ops.components import rabbitmq_steps
from shopfds_ops.components.base import PUT_IN_FORCE, Client, Component, Live, Plan, Report
from shopfds_ops.components.rabbitmq_steps import DEFINITIONS, NODE, PASSWORD, broker
from shopfds_ops.result import Problem, Table
from shopfds_ops.secrets import Secrets
from shopfds_ops.steps import Step
from shopfds_ops.text import UNKNOWN, bytes_text, uptime_text
from shopfds_ops.topology import INTERNAL, MONITORING, HealthCheck, Node, Port, Resources

USER_FILE = "rabbitmq-user.json"
LOOPBACK_DISTRIBUTION = "-kernel inet_dist_use_interface {127,0,0,1}"
COUNT_INTERVAL_MS = 1000
"""How often the broker counts what `status` shows (RabbitMQ's own default is 5 s)."""
QUEUE_COUNT_INTERVAL_MS = 500
"""The same for its quorum queues, which count for the first time this long after they have elected their leader: a
`status` right after `up` has their figures."""
HIGH_WATERMARK = 0.6
"""Share of the node's memory at which publishers are held back: the rest is for the Erlang VM and for collecting."""


class RabbitMQ(Component):
    """See the module."""

    name = "rabbitmq"
    templates = "rabbitmq"

    def nodes(self, plan: Plan) -> Sequence[Node]:
        settings, site = plan.settings, plan.site
        ports = settings.ports
        data = site.volume(NODE, "data", self.name)
        environment = {
            # Erlang keeps its cookie in HOME, and RabbitMQ looks for everything that is not named here in the
            # distribution's folders: the instance of the distribution must be neither read nor written.
            "HOME": data,
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "RABBITMQ_NODENAME": "rabbit@localhost",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": site.config("rabbitmq/rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": f"{data}/conf.d",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{data}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": site.config("rabbitmq/enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": f"{data}/mnesia",
            "RABBITMQ_LOG_BASE": f"{data}/log",
            "RABBITMQ_LOGS": "-",
            "ERL_CRASH_DUMP": f"{data}/erl_crash.dump",
            "ERL_EPMD_PORT": str(ports.at("rabbitmq_epmd")),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(ports.at("rabbitmq_distribution")),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"{LOOPBACK_DISTRIBUTION} -rabbit quorum_tick_interval {QUEUE_COUNT_INTERVAL_MS}"
            ),
            "RABBITMQ_CTL_ERL_ARGS": LOOPBACK_DISTRIBUTION,
        }
        return (
            Node(
                name=NODE,
                component=self.name,
                role="broker",
                image="rabbitmq",
                user="rabbitmq",
                command=("rabbitmq-server",),
                environment=environment,
                ports=(
                    Port(name="amqp", number=ports.at("rabbitmq")),
                    Port(name="management", number=ports.at("rabbitmq_management")),
                    Port(name="prometheus", number=ports.at("rabbitmq_prometheus")),
                    Port(name="distribution", number=ports.at("rabbitmq_distribution"), published=False),
                    Port(name="epmd", number=ports.at("rabbitmq_epmd"), published=False),
                ),
                volumes=("data",),
                files=("rabbitmq/rabbitmq.conf", DEFINITIONS, "rabbitmq/enabled_plugins"),
                secrets=(USER_FILE,),
                networks=(INTERNAL, MONITORING),
                # Each run boots an Erlang of its own, so not often.
                health=HealthCheck(
                    command=("rabbitmq-diagnostics", "--quiet", "check_running"), interval=15.0, timeout=10.0
                ),
                resources=Resources(memory=settings.rabbitmq.memory),
                # Up to 3.13 every stop takes 5 s more than it has to: the statistics handler asks Erlang's application
                # controller, which waits for the handler to end. Nothing is lost by it, but cutting it short would cut
                # off the queues' logs, which are closed after it.
                stop_timeout=60,
            ),
        )

    def variables(self, plan: Plan) -> Mapping[str, Any]:
        watermark = int(plan.settings.rabbitmq.memory * HIGH_WATERMARK)
        return {
            "definitions": definitions.definitions(plan.settings, plan.site.version("rabbitmq")),
            "user_definitions": plan.site.secret(NODE, USER_FILE),
            "high_watermark": watermark,
            "disk_free_limit": watermark,
            "count_interval": COUNT_INTERVAL_MS,
        }

    def secret_files(self, plan: Plan, secrets: Secrets) -> Mapping[str, str]:
        content = definitions.user_definitions(plan.settings, secrets[PASSWORD])
        return {USER_FILE: json.dumps(content, indent=2) + "\n"}

    def refused_secrets(self, live: Live) -> Sequence[Problem]:
        try:
            login(broker(live))
        except BrokerAccessError as error:
            return (Problem(PASSWORD, str(error), PUT_IN_FORCE),)
        except BrokerError:
            return ()  # a broker that does not answer is for `status`
        return ()

    def client(self, live: Live, node: Node) -> Client:
        # What an operator who types no command wants of a broker is its queues; `rabbitmqctl` alone prints its usage.
        listed = ("--vhost", live.settings.rabbitmq.vhost, "list_queues")
        columns = ("name", "type", "messages_ready", "messages_unacknowledged", "consumers", "state")
        return Client(("rabbitmqctl",), (*listed, *columns), node.environment)

    # -- health --------------------------------------------------------------------------------------------------

    def probe(self, live: Live, node: Node) -> str | None:
        try:
            login(broker(live))
        except BrokerAccessError:
            return None  # it does speak AMQP; whom it lets in is for the step rabbitmq.access
        except BrokerError as error:
            return f"does not accept AMQP connections yet: {error}"
        return None

    # -- initialization ------------------------------------------------------------------------------------------

    def steps(self, live: Live) -> Sequence[Step]:
        return rabbitmq_steps.steps(live)

    # -- report --------------------------------------------------------------------------------------------------

    def report(self, live: Live) -> Report:
        try:
            found = broker_report(broker(live))
        except BrokerError as error:
            return Report(self.name, None, (), (_unavailable(error),))
        now = dt.datetime.now(dt.UTC)
        summary = (
            found.version or UNKNOWN,
            UNKNOWN if found.uptime is None else uptime_text(now - found.uptime, now),
            f"{bytes_text(found.memory)} of {bytes_text(found.memory_limit)}",
            bytes_text(found.disk_free),
            UNKNOWN if found.alarms is None else ", ".join(found.alarms) or "none",
            _count(found.connections),
        )
        queues = tuple(
            (
                queue.name,
                queue.type,
                queue.state,
                _count(queue.ready),
                _count(queue.unacked),
                _count(queue.consumers),
                bytes_text(queue.memory),
            )
            for queue in found.queues
        )
        tables = (
            Table("Broker", ("version", "uptime", ">memory", ">disk free", "alarms", ">connections"), (summary,)),
            Table("Queues", ("queue", "type", "state", ">ready", ">unacked", ">consumers", ">memory"), queues),
        )
        return Report(self.name, found, tables, tuple(_problems(found)))


def _problems(found: BrokerReport) -> Iterator[Problem]:
    alarms = found.alarms or ()
    if "memory" in alarms:
        yield Problem(
            NODE,
            f"memory alarm: {bytes_text(found.memory)} in use, publishers are held back",
            "let consumers catch up, or give it more: `shopfds config set rabbitmq.memory MIB`, `shopfds up`",
        )
    if "disk" in alarms:
        yield Problem(
            NODE,
            f"disk alarm: {bytes_text(found.disk_free)} free, publishers are held back",
            f"free more than {bytes_text(found.disk_free_limit)} on the volume that holds its data",
        )
    for queue in found.leaderless:
        yield Problem(NODE, f"queue '{queue.name}' has no leader: it takes and gives nothing", "run `shopfds up`")
    for queue in found.queues:
        if queue not in found.leaderless and queue.state not in ("running", "idle", "flow"):
            yield Problem(NODE, f"queue '{queue.name}' is {queue.state}", f"see `shopfds logs {NODE}`")


def _unavailable(error: BrokerError) -> Problem:
    if isinstance(error, BrokerAccessError):
        return Problem(NODE, str(error), "`shopfds init rabbitmq` sets the password of .env")
    if isinstance(error, BrokerUnreachableError):
        return Problem(NODE, str(error), f"`shopfds up` starts it; see `shopfds logs {NODE}`")
    return Problem(NODE, str(error), f"look again in some seconds; see `shopfds logs {NODE}`")


def _count(figure: int | None) -> str:
    return UNKNOWN if figure is None else str(figure)
