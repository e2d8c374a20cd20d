"""Where requests come in: a stream, from which any node takes the next one to sort it.

There are two. The MQTT door of the servers confirms a QoS 1 message to its sender when it is in a
stream of its own (``$MQTT_msgs``); it also passes it on to those who listen, our stream of requests
among them, but looks to nobody having it: while that stream elects a leader, it has not. So what is
confirmed is taken from the stream of the MQTT door, and the rest from ours. No clock says to which
of the two a request belongs that comes in just when the door of MQTT is opened for the first time:
those belong to the door that claims them first.
"""

import json
from typing import Any

from edge_llm.fleet.claims import Claims
from edge_llm.fleet.consumers import ensure_consumer
from edge_llm.fleet.item import MQTT_QOS, SESSION_OF_MQTT, SESSION_OF_REQUESTS, Item, make_item
from edge_llm.fleet.names import FleetNames

__all__ = ["Door", "open_doors"]

MQTT_STREAM, MQTT_PREFIX = "$MQTT_msgs", "$MQTT.msgs."
WAIT_S = 0.5
"""The servers have so long to come up with a request; a node that ends has to wait for that."""
OPENING_S = 5.0
"""Around the opening of the door of MQTT, as servers' clocks differ. A claim lasts as long, so none
that was made by then counts when the door of MQTT looks at no claims any more."""
ASK_TIMEOUT_S = WAIT_S + 1.0
ASK = json.dumps({"batch": 1, "expires": int(WAIT_S * 1e9)}).encode()


class Door:
    """One way in.

    Args:
        client: of NATS.
        stream: where requests are.
        consumer: who takes them; all nodes are one.
        names: of the fleet.
    """

    def __init__(self, client: Any, stream: str, consumer: str, names: FleetNames) -> None:
        self._client, self._stream, self._consumer, self._names = client, stream, consumer, names
        self._claims = Claims(client, names, OPENING_S)
        self.is_mqtt = stream == MQTT_STREAM
        """Whether it is the one of confirmed messages."""
        self.open_since = 0.0
        """By the clock of the servers, in Unix seconds."""

    async def open(self, lease_s: float) -> None:
        """Make the consumer, if it is missing.

        Raises:
            nats.errors.Error: it could not be made; the stream of the MQTT door is there when the
                first MQTT client has connected.
        """
        from nats.js.api import AckPolicy, ConsumerConfig

        config = ConsumerConfig(
            durable_name=self._consumer,
            filter_subject=f"{MQTT_PREFIX}{self._names.request_subjects}" if self.is_mqtt else None,
            ack_policy=AckPolicy.EXPLICIT,
            max_deliver=-1,  # as often as need be
            ack_wait=lease_s,
        )
        info = await ensure_consumer(self._client.jetstream(), self._stream, config)
        self.open_since = info.created.timestamp() if info.created else 0.0

    async def next(self) -> Item | None:
        """Return the next request, or None if none came in for a while.

        Raises:
            nats.errors.Error: nobody could say.
        """
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        # By an inbox of its own: what is delivered keeps its subject.
        message = await self._client.request(subject, ASK, timeout=ASK_TIMEOUT_S, old_style=True)
        headers = message.headers or {}
        if "Status" in headers:
            return None
        meta = message.metadata
        return make_item(
            message,
            self._names.topic(message.subject.removeprefix(MQTT_PREFIX)),
            origin=SESSION_OF_MQTT if self.is_mqtt else SESSION_OF_REQUESTS,
            qos=int(headers.get(MQTT_QOS, "1")),
            arrived_at=meta.timestamp.timestamp(),
            num_delivered=meta.num_delivered,
            seq=meta.sequence.stream,
        )

    async def leaves(self, item: Item, other: "Door") -> bool:
        """Tell whether a request of this door is one that the other door sorts.

        Raises:
            nats.errors.Error: nobody could say.
        """
        if (item.message.headers or {}).get(MQTT_QOS, "0") == "0":
            return False
        since_s = item.arrived_at - (self if self.is_mqtt else other).open_since
        if abs(since_s) > 2 * OPENING_S:
            return since_s > 0 and not self.is_mqtt
        if self.is_mqtt or since_s < OPENING_S:
            return not await self._claims.claim(self._stream, item)
        # What was claimed by then may be said again; nothing else is ours any more.
        return not await self._claims.has(self._stream, item)


async def open_doors(client: Any, names: FleetNames, lease_s: float) -> tuple[Door, Door]:
    """Open both: that of MQTT, and then the other one.

    Raises:
        nats.errors.Error: one of them could not be opened.
    """
    doors = (
        Door(client, MQTT_STREAM, names.requests, names),
        Door(client, names.requests, "sorter", names),
    )
    for door in doors:
        await door.open(lease_s)
    return doors
