"""A request of the fleet: what NATS delivered, in the form of an MQTT message."""

import time
from dataclasses import dataclass
from typing import Any

from edge_llm.mqtt import Publication

__all__ = ["Item", "make_item"]

SESSION_OF_REQUESTS, SESSION_OF_WORK, SESSION_OF_CANCELLED = -1, -2, -3
"""In the place of the count of a broker's sessions, which is never below zero."""

TOPIC, QOS, ARRIVED, SESSION, ID = (
    f"Edge-Llm-{name}" for name in ("Topic", "Qos", "Arrived", "Session", "Id")
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
    arrived_at: float,
    num_delivered: int = 1,
    seq: int,
) -> Item:
    """Return a message of a stream as the MQTT message that it was."""
    headers = message.headers or {}
    publication = Publication(
        topic=topic,
        payload=bytes(message.data or b""),
        qos=qos,
        retain=False,
        dup=num_delivered > 1,
        packet_id=seq,
        session=origin,
        age_s=max(time.time() - arrived_at, 0.0),
    )
    return Item(message, publication, arrived_at, headers.get(ID, ""), headers.get(SESSION))
