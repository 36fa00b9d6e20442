"""What the broker holds as RabbitMQ definitions: virtual host, exchanges, quorum queues, bindings, policies, our user.

Celery declares its queues with no argument but `x-queue-type=quorum`, and a declaration must agree with the queue that
is there. So everything else that a queue needs stands in a policy, which can also be changed without a new queue.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from services.common.broker_proof import PROOF
from shopfds_ops.settings import Settings

WORK_EXCHANGE = "shopfds"
WORK_QUEUES = ("ecommerce", "fds")
DEAD_LETTER = "dead-letter"
"""The exchange to which rejected work goes, and the queue that keeps it."""
PROOF_TTL_MS = 60_000
PROOF_LENGTH = 100
USER_TAG = "monitoring"
"""Reads the management API and changes nothing through it: the stack itself is mended by `rabbitmqctl`."""

AT_LEAST_ONCE_SINCE = (3, 10)
"""Dead-lettering that is confirmed before the source forgets the message, and message-ttl on quorum queues."""
DEFAULT_DELIVERY_LIMIT_SINCE = (4, 0)
"""Every quorum queue drops a message at its 20th delivery, unless a policy says otherwise."""


def definitions(settings: Settings, version: tuple[int, ...]) -> dict[str, list[dict[str, Any]]]:
    """All that is no secret, for a broker of this version."""
    vhost = settings.rabbitmq.vhost
    exchanges = {WORK_EXCHANGE: "direct", DEAD_LETTER: "fanout", PROOF: "direct"}
    bindings = [(WORK_EXCHANGE, queue, queue) for queue in WORK_QUEUES]
    bindings += [(DEAD_LETTER, DEAD_LETTER, ""), (PROOF, PROOF, PROOF)]
    return {
        "vhosts": [{"name": vhost}],
        "exchanges": [
            {
                "name": name,
                "vhost": vhost,
                "type": kind,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for name, kind in exchanges.items()
        ],
        "queues": [
            {
                "name": name,
                "vhost": vhost,
                "durable": True,
                "auto_delete": False,
                "arguments": {"x-queue-type": "quorum"},
            }
            for name in (*WORK_QUEUES, DEAD_LETTER, PROOF)
        ],
        "bindings": [
            {
                "source": source,
                "vhost": vhost,
                "destination": queue,
                "destination_type": "queue",
                "routing_key": key,
                "arguments": {},
            }
            for source, queue, key in bindings
        ],
        "policies": [
            {
                "name": name,
                "vhost": vhost,
                "pattern": pattern,
                "apply-to": "queues",
                "priority": 10,
                "definition": definition,
            }
            for name, (pattern, definition) in _policies(settings, version).items()
        ],
    }


def _policies(settings: Settings, version: tuple[int, ...]) -> Mapping[str, tuple[str, dict[str, Any]]]:
    work: dict[str, Any] = {
        "dead-letter-exchange": DEAD_LETTER,
        "delivery-limit": settings.rabbitmq.delivery_limit,
        "overflow": "reject-publish",
    }
    proof: dict[str, Any] = {"max-length": PROOF_LENGTH}
    if version >= AT_LEAST_ONCE_SINCE:
        work["dead-letter-strategy"] = "at-least-once"
        proof["message-ttl"] = PROOF_TTL_MS
    policies = {"work": (f"^({'|'.join(WORK_QUEUES)})$", work), PROOF: (f"^{PROOF}$", proof)}
    if version >= DEFAULT_DELIVERY_LIMIT_SINCE:
        # Somebody who looks at dead letters and puts them back must not make them vanish at the 20th look; and proofs
        # that meet hand each other's messages back.
        proof["delivery-limit"] = -1
        policies[DEAD_LETTER] = (f"^{DEAD_LETTER}$", {"delivery-limit": -1})
    return policies


def user_definitions(settings: Settings, password: str) -> dict[str, list[dict[str, Any]]]:
    """Our user with the hash of its password, its virtual host and what it may do there. A secret."""
    vhost, user = settings.rabbitmq.vhost, settings.rabbitmq.user
    return {
        "vhosts": [{"name": vhost}],
        "users": [
            {
                "name": user,
                "password_hash": password_hash(user, password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": USER_TAG,
            }
        ],
        "permissions": [{"user": user, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"}],
    }


def password_hash(user: str, password: str) -> str:
    """RabbitMQ's salted SHA-256: base64(salt + sha256(salt + password)), with a salt of 4 bytes.

    The salt is derived from user and password, so that the same secret renders to the same bytes every time.
    """
    salt = hmac.digest(password.encode(), user.encode(), "sha256")[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
