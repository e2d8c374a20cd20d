"""A request of the fleet: what NATS delivered, in the form of an MQTT message."""

import time
from dataclasses import dataclass
from typing import Any

from edge_llm.mqtt import Publication

__all__ = ["Item", "make_publication"]

SESSION_OF_REQUESTS, SESSION_OF_WORK = -1, -2
"""In the place of the count of a broker's sessions, which is never below zero."""

TOPIC, QOS, ARRIVED = "Edge-Llm-Topic", "Edge-Llm-Qos", "Edge-Llm-Arrived"
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
    is_over: bool = False


def make_publication(
    message: Any, topic: str, session: int, qos: int, arrived_at: float
) -> Publication:
    """Return a message of a stream as the MQTT message that it was."""
    meta = message.metadata
    return Publication(
        topic=topic,
        payload=bytes(message.data),
        qos=qos,
        retain=False,
        dup=meta.num_delivered > 1,
        packet_id=meta.sequence.stream,
        session=session,
        age_s=max(time.time() - arrived_at, 0.0),
    )
