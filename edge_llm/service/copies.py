"""Messages that come twice: told apart from new ones, and acknowledged once.

A broker delivers again what was not acknowledged when a connection broke, and a sender repeats
what its broker did not acknowledge. The first are known by their packet id. The second can't be
told from a button that is pressed twice, but by the time: they come when connections have just
been made again.
"""

from collections.abc import Callable
from typing import Literal

from edge_llm.mqtt import MqttConnection, Publication

__all__ = ["Copies"]

_Copy = tuple[int, int, str, int]  # what is the same in each copy of a message

MORE_COPIES = 64  # remembered beyond what may be unacknowledged at once


class Copies:
    """Acknowledges messages, and knows them when they come again.

    Args:
        mqtt: where they come from.
        acknowledge: tells whoever brought a message that it may be forgotten.
        ack: when requests are acknowledged; see the settings.
        repeat_window_s: how long after a reconnect senders are expected to repeat themselves.
        num_unacknowledged: most messages that may be unacknowledged at once.
    """

    def __init__(
        self,
        mqtt: MqttConnection,
        acknowledge: Callable[[Publication], None],
        ack: Literal["response", "receipt"],
        repeat_window_s: float,
        num_unacknowledged: int,
    ) -> None:
        self._mqtt = mqtt
        self._acknowledge = acknowledge
        self._acks_on_receipt = ack == "receipt"
        self._repeat_window_s = repeat_window_s
        self._limit = num_unacknowledged + MORE_COPIES
        # What was acknowledged last, and whether the connection broke before.
        self._acknowledged: dict[_Copy, bool] = {}

    def receive(self, publication: Publication) -> None:
        """Take a message; some brokers forget what is not acknowledged at once."""
        if self._acks_on_receipt:
            self._ack(publication)

    def ack(self, publication: Publication) -> None:
        """Tell the broker that it may forget a message, as it is dealt with."""
        if not self._acks_on_receipt:
            self._ack(publication)

    def _ack(self, publication: Publication) -> None:
        self._acknowledge(publication)
        if publication.qos > 0:
            broke_before = publication.connection != self._mqtt.connection
            self._acknowledged[_copy_of(publication)] = broke_before
            if len(self._acknowledged) > self._limit:
                del self._acknowledged[next(iter(self._acknowledged))]

    def was_acknowledged(self, publication: Publication) -> bool:
        """Tell whether the broker repeats itself because an acknowledgement of ours got lost."""
        copy = _copy_of(publication)
        broke_before = self._acknowledged.get(copy)
        if broke_before is None or not (publication.dup or broke_before):
            return False
        del self._acknowledged[copy]
        return True

    @staticmethod
    def is_same(first: Publication, second: Publication) -> bool:
        """Tell whether a broker delivered one message twice, after a broken connection."""
        # Not every broker that was restarted in between sets the flag.
        return _copy_of(first) == _copy_of(second) and (
            second.dup or first.connection != second.connection
        )

    def may_be_repeated(self, publication: Publication) -> bool:
        """Tell whether a message with known content may be a repetition, and not a new one."""
        if publication.qos == 0:
            return False
        return publication.dup or (
            self._mqtt.resumed and self._mqtt.connected_for_s <= self._repeat_window_s
        )


def _copy_of(publication: Publication) -> _Copy:
    session_and_id = (publication.session, publication.packet_id)
    return *session_and_id, publication.topic, hash(publication.payload)
