"""How often somebody may ask: so many at once, and then as many as come back with time."""

from collections.abc import Callable

__all__ = ["RateLimit"]


class RateLimit:
    """The generic cell rate algorithm: one number says when all that was taken is paid back.

    Args:
        per_min: as many may be taken in a minute; that many at once, too.
        clock: gives the time, in seconds.
    """

    def __init__(self, per_min: float, clock: Callable[[], float]) -> None:
        self._interval_s = 60.0 / per_min
        self._burst_s = 60.0
        self._clock = clock
        self._paid_at = clock()

    def take(self) -> float:
        """Take one; or take none, and return the seconds until there is one."""
        now = self._clock()
        paid_at = max(self._paid_at, now) + self._interval_s
        if (wait_s := paid_at - now - self._burst_s) > 1e-9:
            return wait_s
        self._paid_at = paid_at
        return 0.0
