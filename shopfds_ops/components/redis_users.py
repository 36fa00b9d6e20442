"""The users of the Redis nodes, each with the least it needs, as an ACL file with hashes instead of passwords."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from services.common.cluster_nodes import REPLICATION_USER
from shopfds_ops.secrets import Secrets

ADMIN = "admin"
APPLICATION = "shopfds"
HEALTH = "health"

PASSWORDS: Mapping[str, str] = {
    ADMIN: "REDIS_ADMIN_PASSWORD",
    APPLICATION: "REDIS_APP_PASSWORD",
    REPLICATION_USER: "REDIS_REPLICATION_PASSWORD",
}

_APPLICATION_RULES = (
    # Data, pub/sub, scripts, transactions; nothing that flushes, lists all keys, or changes the server. What a
    # client needs to find its way in a cluster is given back one by one. Only names that Redis 6.2 knows as well.
    "~* &* -@all +@read +@write +@pubsub +@scripting +@transaction +@connection -@dangerous "
    "+auth +hello +ping +select +command +info +wait +readonly +readwrite +asking "
    "+cluster|slots +cluster|shards +cluster|nodes +cluster|info +cluster|myid +cluster|keyslot "
    "+cluster|countkeysinslot"
)


def acl_file(secrets: Secrets, *, closed: bool = False) -> str:
    """The content of the file behind `aclfile`, the same for all nodes.

    `closed` is for a node that starts without knowing a cluster: no replica may log in until repair opens it. A replica
    finds its master by address alone; one whose master lost its data folder and came back blank at the same address
    would else copy that emptiness over the last copy of the data, before anybody could promote it.
    """
    replicas = "off" if closed else "on"
    replication = _hash(secrets[PASSWORDS[REPLICATION_USER]])
    users = (
        "user default off resetkeys resetchannels -@all",
        f"user {ADMIN} on {_hash(secrets[PASSWORDS[ADMIN]])} ~* &* +@all",
        f"user {APPLICATION} on {_hash(secrets[PASSWORDS[APPLICATION]])} {_APPLICATION_RULES}",
        f"user {REPLICATION_USER} {replicas} {replication} -@all +psync +replconf +ping",
        # The engine's health check runs in the node with no secret in reach: whoever connects may ask for a sign of
        # life and the state of the cluster, and nothing else.
        f"user {HEALTH} on nopass resetkeys resetchannels -@all +ping +cluster|info",
    )
    return "\n".join(users) + "\n"


def auth_file(secrets: Secrets) -> str:
    """What a replica says to its master; included by the node's command: the shared configuration holds no secret."""
    return f"masteruser {REPLICATION_USER}\nmasterauth {secrets[PASSWORDS[REPLICATION_USER]]}\n"


def _hash(password: str) -> str:
    return "#" + hashlib.sha256(password.encode()).hexdigest()
