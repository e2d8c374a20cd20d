"""MQTT messages, those that came in and those that go out, with their MQTT 5 properties."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_llm.errors import BrokerError

__all__ = ["Pending", "Publication", "Subscription", "Will"]

RETAINED_ALWAYS, RETAINED_NEVER = 0, 2  # on subscribing; MQTT 5, section 3.8.3.1
HEADER_BYTES = 9  # at most: 1, up to 4 for the length, 2 for that of the topic, 2 for the packet id
IS_TEXT = 1  # MQTT 5, section 3.3.2.3.2: the payload is UTF-8


@dataclass(frozen=True, slots=True)
class Publication:
    """A message that came in.

    Attributes:
        expiry_s: seconds that it may still wait, if its MQTT 5 sender said so.
        packet_id: what ``ack`` needs.
        session: counts the sessions that the broker began; packet ids begin anew in each.
        connection: counts the connections; after a break a copy may come, without ``dup`` too.
        response_topic: where its MQTT 5 sender wants the reply.
        correlation: what its MQTT 5 sender wants back with the reply, byte for byte.
        content_type: what its MQTT 5 sender says that the payload is.
        age_s: how long it was on its way before it came to us, where that is known.
        route: whose press it is, where that was found out before.
        subscriptions: identifiers of the subscriptions that this copy is for, where the broker
            speaks MQTT 5 and they have some.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int
    expiry_s: int | None = None
    session: int = 0
    connection: int = 0
    response_topic: str | None = None
    correlation: bytes | None = None
    content_type: str | None = None
    subscriptions: tuple[int, ...] = ()
    age_s: float = 0.0
    route: str | None = None

    @classmethod
    def from_paho(cls, message: paho.MQTTMessage, session: int, connection: int) -> Self:
        """Take over what paho received."""
        properties = message.properties  # None on MQTT 3.1.1
        return cls(
            topic=message.topic,
            payload=bytes(message.payload),
            qos=message.qos,
            retain=message.retain,
            dup=message.dup,
            packet_id=message.mid,
            expiry_s=getattr(properties, "MessageExpiryInterval", None),
            session=session,
            connection=connection,
            response_topic=getattr(properties, "ResponseTopic", None),
            correlation=getattr(properties, "CorrelationData", None),
            content_type=getattr(properties, "ContentType", None),
            subscriptions=tuple(getattr(properties, "SubscriptionIdentifier", ())),
        )


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic filter and the highest quality of service for it."""

    topic_filter: str
    qos: int
    retained: bool = False
    """Also what was published before and is retained; MQTT 3.1.1 brokers send that in any case."""
    identifier: int | None = None
    """Comes back in ``Publication.subscriptions``, if the broker speaks MQTT 5: mosquitto sends a
    message once for each filter that matches it. 1 to 268,435,455."""
    retain_as_published: bool = True
    """Leave the retain flag as the publisher set it; MQTT 3.1.1 brokers clear it on what is new."""

    def to_options(self) -> SubscribeOptions:
        """Say it in MQTT 5."""
        return SubscribeOptions(
            self.qos,
            retainAsPublished=self.retain_as_published,
            retainHandling=RETAINED_ALWAYS if self.retained else RETAINED_NEVER,
        )

    def to_properties(self) -> Properties | None:
        """Say the identifier in MQTT 5."""
        if self.identifier is None:
            return None
        properties = make_properties(PacketTypes.SUBSCRIBE)
        properties.SubscriptionIdentifier = self.identifier
        return properties


@dataclass(frozen=True, slots=True)
class Will:
    """The retained message that the broker publishes if we vanish."""

    topic: str
    payload: bytes


@dataclass(slots=True, eq=False)
class Pending:
    """A publish that is not confirmed yet, with what it takes to say it again."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    keep: bool
    expiry_s: int | None
    content_type: str | None
    correlation: bytes | None
    properties: Sequence[tuple[str, str]]
    confirmed: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    _made_at: float = field(default_factory=time.monotonic)

    @property
    def waits(self) -> bool:
        """Whether it is sent later if it can't be sent now."""
        return self.qos > 0 or self.keep

    @property
    def left_s(self) -> int | None:
        """What is left of the expiry, in whole seconds."""
        if self.expiry_s is None:
            return None
        return self.expiry_s - int(time.monotonic() - self._made_at)

    def to_properties(self) -> Properties:
        """Say in MQTT 5 what MQTT 3.1.1 has no words for."""
        properties = make_properties(PacketTypes.PUBLISH)
        if self.left_s is not None:
            properties.MessageExpiryInterval = max(0, self.left_s)
        if self.content_type:
            properties.ContentType = self.content_type
            properties.PayloadFormatIndicator = IS_TEXT
        if self.correlation is not None:
            properties.CorrelationData = self.correlation
        if self.properties:
            properties.UserProperty = list(self.properties)
        return properties

    @property
    def num_bytes(self) -> int:
        """How large its MQTT 5 packet is, at most."""
        properties = self.to_properties().pack()  # type: ignore[no-untyped-call] # paho's
        return HEADER_BYTES + len(self.topic.encode()) + len(properties) + len(self.payload)

    def confirm(self) -> None:
        """Tell who waits that the broker has it."""
        if not self.confirmed.done():
            self.confirmed.set_result(None)

    def fail(self, message: str, *, retryable: bool = True) -> None:
        """Tell who waits that the broker will never have it."""
        if not self.confirmed.done():
            error = BrokerError(message)
            error.retryable = retryable
            self.confirmed.set_exception(error)
            self.confirmed.exception()  # whoever sends QoS 0 need not look


def make_properties(packet_type: int) -> Properties:
    """Make an empty set of MQTT 5 properties for a kind of packet."""
    return Properties(packet_type)  # type: ignore[no-untyped-call] # paho's
