"""How long a step may take: by what steps have taken so far, so that no model is too slow for it.

The length of an answer says nothing: long answers look like trouble where only a step can be in it.
"""

__all__ = ["StepClock"]

FIRST_S = 60.0
"""As long as little is known: a first call makes its buffers, and the driver itself may wait for
50 s before it gives a card up (axcl_pcie_host.c)."""
FEW = 20  # steps
LEAST_S = 10.0
FACTOR = 20.0


class StepClock:
    """Times the steps of one worker.

    Args:
        fixed_s: the limit, if it is not to be measured.
    """

    def __init__(self, fixed_s: float | None = None) -> None:
        self._fixed_s = fixed_s
        self._slowest_s = 0.0
        self._num_steps = 0

    def note(self, seconds: float) -> None:
        """Take the time of a step."""
        self._num_steps += 1
        self._slowest_s = max(self._slowest_s, seconds)

    @property
    def limit_s(self) -> float:
        """How long the next step may take, in seconds."""
        if self._fixed_s is not None:
            return self._fixed_s
        if self._num_steps < FEW:
            return FIRST_S
        return min(max(FACTOR * self._slowest_s, LEAST_S), FIRST_S)
