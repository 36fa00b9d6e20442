"""The parts of the stack, in the order in which they are listed: one line for each."""

from __future__ import annotations

from shopfds_ops.components.base import Component
from shopfds_ops.components.postgres import Postgres
from shopfds_ops.components.rabbitmq import RabbitMQ
from shopfds_ops.components.redis_cluster import RedisCluster

COMPONENTS: tuple[Component, ...] = (Postgres(), RedisCluster(), RabbitMQ())
