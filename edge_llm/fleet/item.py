"""A request of the fleet: what NATS delivered, in the form of an MQTT message."""

import time
from dataclasses import dataclass
from typing import Any

from edge_llm.mqtt import Publication

__all__ = ["Item", "make_item"]

SESSION_OF_REQUESTS, SESSION_OF_WORK, SESSION_OF_CANCELLED, SESSION_OF_MQTT = -1, -2, -3, -4
"""In the place of the count of a broker's sessions, which is never below zero."""

TOPIC, QOS, ARRIVED, SESSION, ID, ROUTE, AGAIN = (
    f"Edge-Llm-{name}" for name in ("Topic", "Qos", "Arrived", "Session", "Id", "Route", "Again")
)
"""Headers of requests that wait."""
MQTT_QOS = "Nmqtt-Pub"
"""Header of a message that came in by MQTT: its quality of service."""


@dataclass(slots=True, eq=False)
class Item:
    """A message that we hold a lease of."""

    message: Any
    publication: Publication
    arrived_at: float
    """When it came to the fleet, by the clock of the server that took it in, in Unix seconds."""
    request_id: str = ""
    session: str | None = None
    """The conversation that it is a turn of, which is locked as long as we hold it."""


def make_item(
    message: Any,
    topic: str,
    *,
    origin: int,
    qos: int,
    arrived_at: float | None,
    num_delivered: int = 1,
    seq: int,
    route: str | None = None,
) -> Item:
    """Return a message of NATS as the MQTT message that it was; it came now if no time is given."""
    headers, now = message.headers or {}, time.time()
    arrived_at = now if arrived_at is None else arrived_at
    publication = Publication(
        topic=topic,
        payload=bytes(message.data or b""),
        qos=qos,
        retain=False,
        dup=num_delivered > 1 or AGAIN in headers,
        packet_id=seq,
        session=origin,
        age_s=max(now - arrived_at, 0.0),
        route=route or headers.get(ROUTE),
    )
    return Item(message, publication, arrived_at, headers.get(ID, ""), headers.get(SESSION))
