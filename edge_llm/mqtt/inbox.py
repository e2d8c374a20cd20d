"""Messages that came in: no more at once than their receiver wants, the rest held back.

MQTT 3.1.1 can't tell the broker how many it may send, and mosquitto 2.0.11, when told, still sends
up to ten times as much in a burst.

A message counts until its receiver acknowledges it, also when the broker began a new session
meanwhile: the receiver still works on it. What was held back when the broker lost its session is
the only copy left, so it is passed on in its turn like the others; only its packet id means
nothing any more, or another message.
"""

import asyncio
from collections import deque

from edge_llm.mqtt.message import Publication

__all__ = ["Inbox"]


class Inbox:
    """Hands out what came in.

    Args:
        receive_maximum: unacknowledged messages that the receiver has at once.
    """

    def __init__(self, receive_maximum: int) -> None:
        self._receive_maximum = receive_maximum
        self._handed_out: set[tuple[int, int]] = set()
        self._held: deque[Publication] = deque()
        self._incoming: asyncio.Queue[Publication] = asyncio.Queue()

    async def get(self) -> Publication:
        """Wait for the next message."""
        return await self._incoming.get()

    @property
    def num_unacknowledged(self) -> int:
        """How many the receiver has, or is about to get."""
        return len(self._handed_out)

    def put(self, publication: Publication) -> None:
        """Take what came in; QoS 0 overtakes what is held."""
        if publication.qos == 0 or _key(publication) in self._handed_out:
            self._incoming.put_nowait(publication)
        elif self._is_full:
            if all(_key(held) != _key(publication) for held in self._held):  # else it is a copy
                self._held.append(publication)
        else:
            self._hand_out(publication)

    def ack(self, publication: Publication) -> None:
        """Make room; harmless if there was an acknowledgement before."""
        self._handed_out.discard(_key(publication))
        if self._held and not self._is_full:
            self._hand_out(self._held.popleft())

    @property
    def _is_full(self) -> bool:
        return len(self._handed_out) >= self._receive_maximum

    def _hand_out(self, publication: Publication) -> None:
        self._handed_out.add(_key(publication))
        self._incoming.put_nowait(publication)


def _key(publication: Publication) -> tuple[int, int]:
    return publication.session, publication.packet_id
