"""A message to publish, with all that its receiver may be told."""

from dataclasses import dataclass

__all__ = ["Outgoing", "ReplyTo"]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish.

    Attributes:
        correlation: the requester's, byte for byte; MQTT 5 only.
        properties: names and values, MQTT 5 only.
        keep: also at QoS 0 it waits for a broker that is away.
        expiry_s: how long the broker keeps it, in seconds; MQTT 5 only.
    """

    topic: str
    payload: bytes
    content_type: str
    qos: int = 0
    retain: bool = False
    correlation: bytes | None = None
    properties: tuple[tuple[str, str], ...] = ()
    keep: bool = False
    expiry_s: int | None = None


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where the messages of one reply go.

    Attributes:
        deltas: instead of the level below ``response``.
        qos: of the final messages; never more than the request's.
    """

    response: str
    deltas: str | None = None
    qos: int = 0
    retain: bool = False
    correlation: bytes | None = None

    def below(self, level: str) -> str:
        """Return the topic of a reserved level: ``delta``, ``event``, ``error``, ``part/0``."""
        return f"{self.response}/{level}"
