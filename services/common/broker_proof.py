"""RabbitMQ proven by AMQP: a login, and a message that is published, confirmed, consumed and acknowledged.

pika's blocking connection cannot bound the wait for a confirm or a consumer (a quorum queue without a leader never
gives one), so both run on pika's event loop, where a deadline is a timer.
"""

from __future__ import annotations

import functools
import time
import uuid
from typing import Any

import pika  # type: ignore[import-untyped]
from pika.adapters.utils import connection_workflow  # type: ignore[import-untyped]

from services.common.broker import Broker, BrokerAccessError, BrokerError, BrokerUnreachableError

LOGIN_TIMEOUT = 2.0
PROOF_TIMEOUT = 5.0
PROOF = "proof"
"""The exchange, routing key and quorum queue that are there for proofs alone."""
CLOSE_GRACE = 0.2
"""Seconds a broker has to say goodbye; one that hangs does not."""
BUSY_RETRY = 0.05
ACCESS_REFUSED = 403
NOT_ALLOWED = 530
PERSISTENT = 2
LEFTOVER_SECONDS = 60
"""Age over which a message of somebody else's proof was left behind, and is removed."""


class UnroutableError(BrokerError):
    """A mandatory message came back: no queue is bound to the exchange by its routing key."""


class RejectedError(BrokerError):
    """The broker did not take responsibility for a message (negative acknowledgement), or closed the channel."""


class ProofTimeoutError(BrokerError):
    """The message was not confirmed and consumed in time; says how far it came."""


def login(broker: Broker, *, timeout: float = LOGIN_TIMEOUT) -> None:
    """Open an AMQP connection to our virtual host and close it properly.

    Raises BrokerAccessError or BrokerUnreachableError, at the latest after `timeout` seconds.
    """
    _Session(broker, timeout).run()


def prove(
    broker: Broker,
    *,
    exchange: str = PROOF,
    routing_key: str = PROOF,
    queue: str = PROOF,
    timeout: float = PROOF_TIMEOUT,
) -> float:
    """Publish a persistent, mandatory message with publisher confirms, consume it from `queue` and acknowledge it.

    Returns the seconds from publishing until it was confirmed and consumed (connecting not counted). Messages over
    LEFTOVER_SECONDS old are removed from the queue, so give it none that holds work. Two proofs at once take turns:
    the consumer is exclusive.
    Raises BrokerAccessError, BrokerUnreachableError, UnroutableError, RejectedError or ProofTimeoutError, at the
    latest CLOSE_GRACE after `timeout` seconds.
    """
    proof = _Proof(broker, timeout, exchange, routing_key, queue)
    proof.run()
    return proof.seconds


def _connection_error(broker: Broker, error: Any) -> BrokerError:
    """What pika's connection errors, one wrapped in the other, mean in our words."""
    where = f"RabbitMQ at {broker.address}"
    pending, said = [error], ""
    while pending:
        reason = pending.pop(0)
        code = getattr(reason, "reply_code", None)
        if isinstance(reason, pika.exceptions.ProbableAuthenticationError) or code == ACCESS_REFUSED:
            return BrokerAccessError(f"{where} refuses user '{broker.user}' (wrong password)")
        if isinstance(reason, pika.exceptions.ProbableAccessDeniedError) or code == NOT_ALLOWED:
            return BrokerAccessError(f"{where} does not let user '{broker.user}' into virtual host '{broker.vhost}'")
        if isinstance(reason, ConnectionRefusedError):
            return BrokerUnreachableError(f"{where}: connection refused")
        if isinstance(reason, connection_workflow.AMQPConnectorStackTimeout):
            said = said or "something accepts connections there, but does not speak AMQP in time"
        if isinstance(reason, OSError):
            said = said or str(reason)
        if isinstance(reason, BaseException):
            pending += [getattr(reason, "exception", None), *getattr(reason, "exceptions", ()), *reason.args]
    return BrokerUnreachableError(f"{where}: {said or error}")


class _Session:
    """One connection with a deadline: opened, used by `_opened`, and closed."""

    def __init__(self, broker: Broker, timeout: float) -> None:
        self.broker, self.timeout = broker, timeout
        self.seconds = 0.0
        self.started = time.monotonic()
        self.reached = "connecting"
        self.finished = False
        self.error: BrokerError | None = None
        self.connection: Any = None

    def run(self) -> None:
        """Returns when done; raises the BrokerError that ended it."""
        self.connection = pika.SelectConnection(
            pika.ConnectionParameters(
                host=self.broker.host,
                port=self.broker.port,
                virtual_host=self.broker.vhost,
                credentials=pika.PlainCredentials(self.broker.user, self.broker.password),
                connection_attempts=1,
                socket_timeout=self.timeout,
                stack_timeout=self.timeout,
                client_properties={"connection_name": "shopfds"},
            ),
            on_open_callback=lambda _: self._opened(),
            on_open_error_callback=lambda _, error: self._stop(_connection_error(self.broker, error)),
            on_close_callback=lambda _, reason: self._stop(
                None if self.finished else _connection_error(self.broker, reason)
            ),
        )
        self.connection.ioloop.call_later(self.timeout, self._expired)
        self.connection.ioloop.start()
        if self.error is not None:
            raise self.error

    def _opened(self) -> None:
        self._succeed()

    def _succeed(self) -> None:
        self.seconds = time.monotonic() - self.started
        self._close()

    def _fail(self, error: BrokerError) -> None:
        if not self.finished:
            self.error = error
            self._close()

    def _close(self) -> None:
        self.finished = True
        self.connection.ioloop.call_later(CLOSE_GRACE, self._abort)
        self.connection.close()

    def _abort(self) -> None:
        """Cut the connection. While a channel hangs, pika does not even say goodbye, and a socket left to the garbage
        collector would leave a consumer that takes messages; pika has no public way to do this."""
        transport = self.connection._transport
        if transport is None:
            self.connection.ioloop.stop()
        else:
            transport.abort()  # on_close_callback follows

    def _stop(self, error: BrokerError | None) -> None:
        self.error = self.error or error
        self.finished = True
        self.connection.ioloop.stop()

    def _expired(self) -> None:
        what = f"RabbitMQ at {self.broker.address} did not answer within {self.timeout:g} s"
        if self.connection.is_open:
            self._fail(ProofTimeoutError(f"{what}; the proof came as far as: {self.reached}"))
        elif not self.finished:
            # pika's own timeout for connecting is as long, and tidies up; this is for name resolution, which it omits.
            stop = functools.partial(self._stop, BrokerUnreachableError(what))
            self.connection.ioloop.call_later(CLOSE_GRACE, stop)


class _Proof(_Session):
    """Connected, consuming, published, confirmed and delivered (in either order), acknowledged."""

    def __init__(self, broker: Broker, timeout: float, exchange: str, routing_key: str, queue: str) -> None:
        super().__init__(broker, timeout)
        self.exchange, self.routing_key, self.queue = exchange, routing_key, queue
        self.token = uuid.uuid4().hex
        self.confirmed = self.consumed = False

    def _opened(self) -> None:
        self.reached = f"waiting for queue '{self.queue}'"
        self.connection.channel(on_open_callback=self._channel_open)

    def _channel_open(self, channel: Any) -> None:
        channel.add_on_close_callback(self._channel_closed)
        channel.add_on_return_callback(self._returned)
        channel.confirm_delivery(self._confirmed, callback=functools.partial(self._consume, channel))

    def _consume(self, channel: Any, _: object) -> None:
        callback = functools.partial(self._publish, channel)
        channel.basic_consume(self.queue, self._delivered, exclusive=True, callback=callback)

    def _publish(self, channel: Any, _: object) -> None:
        self.reached = "published"
        self.started = time.monotonic()
        properties = pika.BasicProperties(delivery_mode=PERSISTENT, message_id=self.token, timestamp=int(time.time()))
        channel.basic_publish(self.exchange, self.routing_key, self.token.encode(), properties, mandatory=True)

    def _confirmed(self, frame: Any) -> None:
        if isinstance(frame.method, pika.spec.Basic.Nack):
            self._fail(RejectedError(f"RabbitMQ at {self.broker.address} did not accept a message for '{self.queue}'"))
            return
        self.confirmed = True
        self.reached = "confirmed"
        self._perhaps_done()

    def _delivered(self, channel: Any, method: Any, properties: Any, _: bytes) -> None:
        if properties.message_id == self.token:
            channel.basic_ack(method.delivery_tag)
            self.consumed = True
            self._perhaps_done()
        elif time.time() - (properties.timestamp or 0) > LEFTOVER_SECONDS:
            channel.basic_ack(method.delivery_tag)
        else:
            # Two proofs that begin at the same moment may both get to consume: this one's owner still waits for it.
            channel.basic_reject(method.delivery_tag, requeue=True)

    def _returned(self, _: object, method: Any, __: object, ___: bytes) -> None:
        self._fail(
            UnroutableError(
                f"RabbitMQ at {self.broker.address} returned a message: no queue is bound to exchange "
                f"'{self.exchange}' by key '{self.routing_key}' ({method.reply_text})"
            )
        )

    def _channel_closed(self, _: object, reason: Any) -> None:
        if self.finished or not isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            return
        if reason.reply_code == ACCESS_REFUSED and "exclusive" in reason.reply_text:
            self.reached = f"waiting for the consumer that holds queue '{self.queue}'"
            reopen = functools.partial(self.connection.channel, on_open_callback=self._channel_open)
            self.connection.ioloop.call_later(BUSY_RETRY, reopen)
            return
        self._fail(RejectedError(f"RabbitMQ at {self.broker.address} closed the channel: {reason.reply_text}"))

    def _perhaps_done(self) -> None:
        if self.confirmed and self.consumed and not self.finished:
            self._succeed()
