"""How long to wait before the next try at a broker.

The delay doubles with each try that comes to nothing, and so does that after a connection that
lived for seconds only. It is longer where another client has our client id: the broker closes the
connection of one when it accepts the other, so the two would throw each other out every second.

That has no sure sign. MQTT 5 brokers should say "Session taken over", but mosquitto 2.0.11 just
closes the connection, as all MQTT 3.1.1 brokers do. So it is also taken for that when the broker
accepts us and closes the connection within seconds, several times in a row, and is never
unreachable in between.
"""

import random
import time
from collections.abc import Callable

__all__ = ["Backoff"]

SHORT_LIFE_S = 10.0  # a connection that lives no longer was not worth having
SHORT_LIVES = 3  # in a row: somebody takes our place
STABLE_S = 60.0  # a connection that lives that long is well
TAKEN_OVER_FIRST, TAKEN_OVER_LONGEST = 5, 2  # times the usual delays: from 5 s up to 60 s
MAX_DOUBLINGS = 16
JITTER = (0.5, 1.5)  # or all nodes of an exhibition come back in the same moment


class Backoff:
    """Draws how long to wait before the next try.

    Args:
        delays_s: the shortest and the longest, before jitter.
        clock: seconds, monotonic.
    """

    def __init__(
        self, delays_s: tuple[float, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._delays_s = delays_s
        self._clock = clock
        self._accepted_at = clock()
        self._failures = 0  # since the broker accepted us
        self._short_lives = 0  # in a row
        self._unexplained = 0  # short lives in a row, and nothing else in between
        self._times_taken_over = 0

    @property
    def is_taken_over(self) -> bool:
        """Whether another client takes our place, or seems to."""
        return self._times_taken_over > 0

    def accepted(self) -> None:
        """Count a connection."""
        self._accepted_at = self._clock()
        self._failures = 0

    def failed(self) -> None:
        """Count a try that came to nothing."""
        self._failures += 1
        self._unexplained = 0

    def lost(self, *, unexplained: bool, taken_over: bool = False) -> bool:
        """Count the end of a connection, and return whether this begins to be a takeover.

        Args:
            unexplained: it was closed without a word, and did not just fall silent.
            taken_over: the broker said that another client has our place.
        """
        life_s = self._clock() - self._accepted_at
        if life_s >= STABLE_S:  # that is over
            self._times_taken_over = 0
        is_short = life_s < SHORT_LIFE_S
        self._short_lives = self._short_lives + 1 if is_short else 0
        self._unexplained = self._unexplained + 1 if is_short and unexplained else 0
        if taken_over or (unexplained and (self.is_taken_over or self._unexplained >= SHORT_LIVES)):
            self._times_taken_over += 1
            return self._times_taken_over == 1
        return False

    def draw_delay_s(self) -> float:
        """Draw the time to wait, in seconds."""
        shortest, longest = self._delays_s
        delay_s = _doubled(shortest, self._failures + self._short_lives - 1, longest)
        if self.is_taken_over:
            first = shortest * TAKEN_OVER_FIRST
            alone_s = _doubled(first, self._times_taken_over - 1, longest * TAKEN_OVER_LONGEST)
            delay_s = max(delay_s, alone_s)
        return delay_s * random.uniform(*JITTER)


def _doubled(first: float, times: int, longest: float) -> float:
    return min(first * 2.0 ** max(0, min(times, MAX_DOUBLINGS)), longest)
