"""What it takes to make RabbitMQ ready: our user and no guest, the topology as defined, a message that goes through.

Every check asks the management API or speaks AMQP, in milliseconds; rabbitmqctl, which boots an Erlang of its own, runs
only to mend.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from services.common.broker import Broker, BrokerAccessError, BrokerError, broker_report, management
from services.common.broker_proof import login, prove
from shopfds_ops.components import rabbitmq_definitions as definitions
from shopfds_ops.components.base import Live
from shopfds_ops.errors import StepError
from shopfds_ops.events import Note
from shopfds_ops.steps import Run, Step

NODE = "rabbitmq"
PASSWORD = "RABBITMQ_PASSWORD"  # noqa: S105  the name of the secret
DEFINITIONS = "rabbitmq/definitions.json"
PROOF_SECONDS = 2.0


def broker(live: Live) -> Broker:
    """Where this machine reaches the broker, and our user there."""
    host, port = live.address(NODE, "amqp")
    return Broker(
        host=host,
        port=port,
        vhost=live.settings.rabbitmq.vhost,
        user=live.settings.rabbitmq.user,
        password=live.secrets[PASSWORD],
        management=live.address(NODE, "management"),
        metrics=live.address(NODE, "prometheus"),
    )


def steps(live: Live) -> Sequence[Step]:
    """Access, then topology, then delivery."""
    return (
        Step("rabbitmq.access", _access_missing(live), _mend_access(live), requires=(NODE,)),
        Step("rabbitmq.topology", _topology_missing(live), _mend_topology(live), requires=("rabbitmq.access",)),
        Step("rabbitmq.delivery", _delivery_missing(live), _mend_delivery(live), requires=("rabbitmq.topology",)),
    )


# -- access ------------------------------------------------------------------------------------------------------


def _access_missing(live: Live) -> Callable[[], str | None]:
    def check() -> str | None:
        ours = broker(live)
        try:
            login(ours)
            if definitions.USER_TAG not in management(ours, "whoami")["tags"]:
                return f"user '{ours.user}' may not read the management API"
            return "the default user 'guest' can log in" if _guest_can_log_in(ours) else None
        except BrokerError as error:
            return str(error)

    return check


def _guest_can_log_in(ours: Broker) -> bool:
    guest = replace(ours, user="guest", password="guest")  # noqa: S106  the default that everybody knows
    try:
        management(guest, "whoami")
    except BrokerAccessError:
        return False
    return True


def _mend_access(live: Live) -> Callable[[Run], None]:
    def apply(run: Run) -> None:
        content = definitions.user_definitions(live.settings, live.secrets[PASSWORD])
        _control(live, "import_definitions", stdin=json.dumps(content))
        try:
            guest = _guest_can_log_in(broker(live))
        except BrokerError as error:
            raise _not_mended(error) from None
        if guest:
            _control(live, "delete_user", "guest")
        run.sink(Note("info", "RabbitMQ's users and their passwords now are as .env says"))

    return apply


# -- topology ----------------------------------------------------------------------------------------------------


def _wanted(live: Live) -> dict[str, list[dict[str, Any]]]:
    return definitions.definitions(live.settings, live.engine.site.version("rabbitmq"))


def _topology_missing(live: Live) -> Callable[[], str | None]:
    def check() -> str | None:
        ours = broker(live)
        vhost = urllib.parse.quote(ours.vhost, safe="")
        wanted = _wanted(live)
        missing: list[str] = []
        try:
            for kind in ("exchanges", "queues", "policies", "bindings"):
                found = {_key(kind, item): item for item in management(ours, f"{kind}/{vhost}")}
                for item in wanted[kind]:
                    there = found.get(_key(kind, item))
                    name = item.get("name") or f"{item['source']} -> {item['destination']}"
                    if there is None:
                        missing.append(f"{kind} lack '{name}'")
                    elif any(there.get(field) != value for field, value in item.items()):
                        missing.append(f"'{name}' of the {kind} is not as defined")
        except BrokerError as error:
            return str(error)
        return "; ".join(missing) or None

    return check


def _key(kind: str, item: Mapping[str, Any]) -> tuple[str, ...]:
    fields = ("source", "destination_type", "destination", "routing_key") if kind == "bindings" else ("name",)
    return tuple(str(item[name]) for name in fields)


def _mend_topology(live: Live) -> Callable[[Run], None]:
    def apply(run: Run) -> None:
        wanted = _wanted(live)
        _refuse_other_kinds(live, wanted)
        _control(live, "import_definitions", stdin=json.dumps(wanted))
        run.sink(Note("info", f"RabbitMQ's exchanges, queues and policies now are as {DEFINITIONS} says"))

    return apply


def _refuse_other_kinds(live: Live, wanted: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """An exchange or a queue of another type keeps its name taken, and may hold messages: the operator decides."""
    ours = broker(live)
    vhost = urllib.parse.quote(ours.vhost, safe="")
    for kind in ("exchanges", "queues"):
        try:
            found = {item["name"]: _type(item) for item in management(ours, f"{kind}/{vhost}")}
        except BrokerError as error:
            raise _not_mended(error) from None
        for item in wanted[kind]:
            name = item["name"]
            if found.get(name, _type(item)) != _type(item):
                raise StepError(
                    f"{name} of RabbitMQ's {kind} is {found[name]}, and must be {_type(item)}",
                    remedy=f"save what it holds and delete it (`shopfds exec {NODE} rabbitmqctl delete_queue {name} "
                    f"--vhost {ours.vhost}` for a queue), then run `shopfds up`",
                )


def _type(item: Mapping[str, Any]) -> str:
    return str(item.get("type") or item["arguments"].get("x-queue-type", "classic"))


# -- delivery ----------------------------------------------------------------------------------------------------


def _delivery_missing(live: Live) -> Callable[[], str | None]:
    def check() -> str | None:
        ours = broker(live)
        try:
            prove(ours, timeout=PROOF_SECONDS)
            unled = [queue.name for queue in broker_report(ours).leaderless]
        except BrokerError as error:
            return str(error)
        return f"queues without a leader: {', '.join(unled)}" if unled else None

    return check


def _mend_delivery(live: Live) -> Callable[[Run], None]:
    def apply(_: Run) -> None:
        _elect_leaders(live)

    return apply


def _elect_leaders(live: Live) -> None:
    """Let every quorum queue elect its leader; one that has a leader keeps it.

    A broker killed within a second after a queue was made forgets that it ever started the queue's Raft member: after
    the restart the member is a follower that waits for a leader for ever. The management API does not show it.
    """
    vhost = live.settings.rabbitmq.vhost
    expression = (
        f'[ra:trigger_election(amqqueue:get_pid(Q)) || Q <- rabbit_amqqueue:list(<<"{vhost}">>), '
        "amqqueue:get_type(Q) =:= rabbit_quorum_queue]."
    )
    _control(live, "eval", expression)


def _not_mended(error: BrokerError) -> StepError:
    return StepError(str(error), remedy=f"see `shopfds logs {NODE}`, then run `shopfds up` again")


def _control(live: Live, *arguments: str, stdin: str | None = None) -> None:
    """Run rabbitmqctl in the node, whose Erlang cookie lets it do anything. Secrets only through `stdin`."""
    node = live.topology.node(NODE)
    done = live.engine.execute(
        node, ("rabbitmqctl", "--quiet", *arguments), environment=node.environment, stdin=stdin, timeout=30.0
    )
    if done.exit_status != 0:
        raise StepError(
            f"`rabbitmqctl {arguments[0]}` in {NODE} failed with exit status {done.exit_status}",
            remedy=f"see `shopfds logs {NODE}`",
            details=(done.stderr or done.stdout).strip(),
        )
