"""Messages over MQTT, across reconnects: subscribe, publish, acknowledge.

The rules that hold, with their reasons in brackets:

- A message is acknowledged when its receiver says so, which may be minutes later. After a broken
  connection the broker delivers it again under the same packet id, so an acknowledgement of the
  first copy serves for the second.
- In a new session packet ids begin anew, so what came in an earlier one is not acknowledged on
  the wire: that could hit another message [1].
- Subscriptions are made anew at every connect [2]: a broker may have lost them.
- A publish at QoS 1, or one that is to be kept, waits here for the connection; any other is dropped
  without one. What paho was given and the broker did not confirm, paho says again by itself [3].
- What waits has bounds: of messages that are retained the newest on each topic, at QoS 0 the newest
  of all; beyond the rest, a publish fails at once, and its request is not acknowledged.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

import paho.mqtt.client as paho
import structlog
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_llm.mqtt.inbox import Inbox
from edge_llm.mqtt.link import Link, Listener
from edge_llm.mqtt.message import Pending, Publication, Subscription, Will
from edge_llm.settings import MqttSettings

__all__ = ["MqttConnection", "Publication", "Subscription", "Will"]

log = structlog.get_logger()

RECONNECT_DELAY_S = (1, 30)  # before jitter
STOP_TIMEOUT_S = 1.0  # for the last messages to leave
KEPT_MESSAGES = 256  # at QoS 0, without a connection; the newest
MAX_UNCONFIRMED = 4096  # of all that was sent, or waits; answers in hand are far fewer
NOT_CONNECTED = "not connected to the MQTT broker"
NOT_READING = "the MQTT broker does not take what is sent to it"


class MqttConnection:
    """One session at a broker, kept up until the context ends.

    Args:
        settings: where the broker is.
        client_id: must be unique at the broker; a second one with the same id throws us out.
        subscriptions: where filters overlap, brokers may deliver a copy for each; only their
            identifiers tell which is which.
        will: published by the broker when the connection is lost.
        clean: begin without the requests that came while we were away.
        receive_maximum: unacknowledged messages to have at once; more wait, at the broker or here.
        on_connected: called in the loop at every connect, after subscribing.
    """

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        subscriptions: Sequence[Subscription],
        *,
        will: Will | None = None,
        clean: bool = False,
        receive_maximum: int = 0xFFFF,
        on_connected: Callable[[], None] = lambda: None,
    ) -> None:
        self._subscriptions = tuple(subscriptions)
        self._unsubscribed: set[str] = set()  # ever; a session that is resumed may have them
        self._subscribing: dict[int, str] = {}
        self._on_connected = on_connected
        self._inbox = Inbox(receive_maximum)
        self._outgoing: dict[int, Pending] = {}
        self._waiting: deque[Pending] = deque()
        self._link = Link(
            settings,
            client_id,
            Listener(
                accepted=self._accepted,
                lost=self._lost,
                replaced=self._replaced,
                received=self._received,
                confirmed=self._confirmed,
                subscribed=self._subscribed,
            ),
            delays_s=RECONNECT_DELAY_S,
            will=will,
            clean=clean,
            receive_maximum=receive_maximum,
        )

    async def __aenter__(self) -> Self:
        """Begin to connect.

        Raises:
            ConfigurationError: the host can't be one, or a certificate can't be used.
        """
        await self._link.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pending = [outgoing.confirmed for outgoing in self._outgoing.values()]
        try:
            if pending and self.is_connected:
                await asyncio.wait(pending, timeout=STOP_TIMEOUT_S)
        finally:  # also when it is cancelled while it waits
            for outgoing in (*self._outgoing.values(), *self._waiting):
                outgoing.confirmed.cancel()
            await self._link.aclose()

    async def messages(self) -> AsyncGenerator[Publication]:
        """Yield what comes in, for ever, across reconnects."""
        while True:
            yield await self._inbox.get()

    async def wait_until_connected(self) -> None:
        """Return when the broker has accepted us."""
        await self._link.connected.wait()

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted us and not gone since."""
        return self._link.connected.is_set()

    @property
    def connected_for_s(self) -> float:
        """Seconds since the broker accepted us; 0 without a connection."""
        return time.monotonic() - self._link.since if self.is_connected else 0.0

    @property
    def silent_s(self) -> float:
        """Seconds since paho's thread did anything: tried to connect, heard or confirmed."""
        return time.monotonic() - self._link.heard_at

    @property
    def connection(self) -> int:
        """Counts the connections; see ``Publication``."""
        return self._link.connection

    @property
    def resumed(self) -> bool:
        """Whether messages may be repetitions of what an earlier connection brought."""
        return self._link.connection > 1 or self._link.session_present

    @property
    def protocol(self) -> str:
        """The MQTT version that is spoken, or tried: 5 or 3.1.1."""
        return "5" if self._link.is_5 else "3.1.1"

    @property
    def server_receive_maximum(self) -> int | None:
        """How many messages the broker takes unacknowledged; only MQTT 5 brokers say so."""
        return self._link.server_receive_maximum

    @property
    def is_settled(self) -> bool:
        """Whether all that came in was acknowledged, and all that went out confirmed."""
        return not (self._outgoing or self._waiting or self._inbox.num_unacknowledged)

    def ack(self, publication: Publication) -> None:
        """Tell the broker that it may forget a message; harmless if it was told before."""
        if publication.qos == 0:
            return
        if self._link.can_send and publication.session == self._link.session:  # [1]
            self._link.client.ack(publication.packet_id, publication.qos)
        self._inbox.ack(publication)

    def publish(
        self,
        topic: str,
        payload: str | bytes,
        qos: int = 0,
        *,
        retain: bool = False,
        content_type: str | None = None,
        expiry_s: int | None = None,
        correlation: bytes | None = None,
        properties: Sequence[tuple[str, str]] = (),
        keep: bool = False,
    ) -> asyncio.Future[None]:
        """Send a message; the future is done when the broker has it (QoS 0: when it was sent).

        With ``keep`` a QoS 0 message, too, waits for the connection if there is none; one that was
        sent just when it broke may still be lost. A ``content_type`` says that the payload is UTF-8
        text; it, ``correlation`` and ``properties`` (user properties) are for MQTT 5 brokers only.

        Raises (through the future):
            BrokerError: the message was dropped: there is no connection, or it expired before
                there was one, or too many wait to be confirmed; or, and then it is not
                ``retryable``, no broker or not this one takes it: its topic can be none, or it is
                too large.
        """
        outgoing = Pending(
            topic=topic,
            payload=payload.encode() if isinstance(payload, str) else payload,
            qos=qos,
            retain=retain,
            keep=keep,
            expiry_s=expiry_s,
            content_type=content_type,
            correlation=correlation,
            properties=tuple(properties),
        )
        if len(self._outgoing) + len(self._waiting) < MAX_UNCONFIRMED:
            self._send(outgoing)
        else:
            outgoing.fail(NOT_READING)
        return outgoing.confirmed

    def resubscribe(self, subscriptions: Iterable[Subscription]) -> None:
        """Replace the subscriptions, now and for all connections to come."""
        before, self._subscriptions = self._subscriptions, tuple(subscriptions)
        current = {subscription.topic_filter for subscription in self._subscriptions}
        self._unsubscribed |= {subscription.topic_filter for subscription in before}
        self._unsubscribed -= current
        if self._link.can_send:  # the new ones first, so that nothing falls between the two
            self._subscribe(s for s in self._subscriptions if s not in before)
            self._unsubscribe()

    def _subscribe(self, subscriptions: Iterable[Subscription]) -> None:
        for subscription in subscriptions:
            if self._link.is_5:
                _, packet_id = self._link.client.subscribe(
                    subscription.topic_filter,
                    options=subscription.to_options(),
                    properties=subscription.to_properties() if self._link.has_identifiers else None,
                )
            else:
                _, packet_id = self._link.client.subscribe(
                    subscription.topic_filter, subscription.qos
                )
            if packet_id is not None:
                self._subscribing[packet_id] = subscription.topic_filter

    def _unsubscribe(self) -> None:
        if self._unsubscribed:
            self._link.client.unsubscribe(sorted(self._unsubscribed))

    def _subscribed(
        self, packet_id: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        topic_filter = self._subscribing.pop(packet_id, "")
        for reason in reasons:
            if reason.is_failure:
                self._link.trouble.subscription_refused(topic_filter, str(reason))

    def _send(self, outgoing: Pending) -> None:
        if not self._link.can_send:
            self._wait(outgoing)
            return
        try:
            self._check_size(outgoing)
            info = self._link.client.publish(
                outgoing.topic,
                outgoing.payload,
                outgoing.qos,
                outgoing.retain,
                outgoing.to_properties() if self._link.is_5 else None,
            )
        except ValueError as exc:  # no topic for a message, or too much of one
            log.warning("mqtt.publish_refused", topic=outgoing.topic, reason=str(exc))
            outgoing.fail(str(exc), retryable=False)
            return
        if outgoing.qos == 0 and info.rc != paho.MQTT_ERR_SUCCESS:
            self._wait(outgoing)
        else:  # [3], whatever it returned
            self._outgoing[info.mid] = outgoing

    def _check_size(self, outgoing: Pending) -> None:
        # The broker would end the connection, and paho say it again in the next, and so for ever.
        limit = self._link.max_packet_bytes
        if limit is not None and outgoing.num_bytes > limit:
            raise ValueError(f"{outgoing.num_bytes} bytes, and the broker takes {limit} at most")

    def _wait(self, outgoing: Pending) -> None:
        """Put a message by for the next connection, if it may wait."""
        if not outgoing.waits:
            outgoing.fail(NOT_CONNECTED)
            return
        if outgoing.retain:
            self._supersede(outgoing.topic)
        self._waiting.append(outgoing)
        kept = [waiting for waiting in self._waiting if waiting.qos == 0]
        if len(kept) > KEPT_MESSAGES:
            self._waiting.remove(kept[0])
            kept[0].fail(NOT_CONNECTED)

    def _supersede(self, topic: str) -> None:
        """Forget what was to be retained on a topic before: something newer is, now."""
        for before in [w for w in self._waiting if w.retain and w.topic == topic]:
            self._waiting.remove(before)
            before.fail("a newer message took its place before there was a connection")

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for outgoing in waiting:
            if outgoing.left_s is not None and outgoing.left_s <= 0:
                outgoing.fail("it expired before there was a connection to the MQTT broker")
            else:
                self._send(outgoing)

    def _accepted(self) -> None:
        self._subscribe(self._subscriptions)  # [2]
        if self._link.session_present:
            self._unsubscribe()
        self._send_waiting()
        self._on_connected()

    def _lost(self) -> None:
        self._subscribing.clear()
        # paho forgets what it had not sent yet at QoS 0, and says so to nobody.
        for packet_id, outgoing in list(self._outgoing.items()):
            if outgoing.qos == 0:
                del self._outgoing[packet_id]
                self._wait(outgoing)

    def _replaced(self) -> None:
        self._waiting.extendleft(reversed(self._outgoing.values()))
        self._outgoing = {}

    def _received(self, message: paho.MQTTMessage) -> None:
        self._inbox.put(Publication.from_paho(message, self._link.session, self._link.connection))

    def _confirmed(
        self, packet_id: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        outgoing = self._outgoing.pop(packet_id, None)
        if outgoing is None:
            return
        if reason.is_failure:  # MQTT 5 brokers say so; 3.1.1 brokers drop in silence
            log.warning("mqtt.publish_refused", topic=outgoing.topic, reason=str(reason))
        outgoing.confirm()
