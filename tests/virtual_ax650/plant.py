"""What heats and cools the virtual card: the NPU's work, and the cupboard that it is in.

First order: ``dT/dt = (ambient(t) + heat_k * duty - T) / tau``, where duty is the part of the time
that the NPU worked, by the busy seconds of the shared page. ``scale`` seconds of the plant pass in
one of ours, so that a ramp of ten minutes takes one.
"""

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from tests.virtual_ax650.shared import Shared

__all__ = ["Moment", "Plant"]

MOST_MOMENTS = 100_000
STOP_TIMEOUT_S = 5.0


class Moment(NamedTuple):
    """How it was at one time."""

    plant_s: float
    celsius: float
    duty: float


class Plant:
    """A thread that writes the temperature to the shared page, while the context lasts.

    Args:
        shared: of the card.
        ambient: temperature without work, in °C, also as a function of the plant's seconds.
        heat_k: how far full work raises it above that, in kelvins.
        tau_s: time constant, in the plant's seconds.
        scale: the plant's seconds in one of ours.
        period_s: of ours, between two steps.

    Attributes:
        highest_celsius: so far.
        history: one moment for each step, the first 100,000.
    """

    def __init__(
        self,
        shared: Shared,
        *,
        ambient: float | Callable[[float], float] = 40.0,
        heat_k: float = 30.0,
        tau_s: float = 60.0,
        scale: float = 1.0,
        period_s: float = 0.05,
    ) -> None:
        self._shared = shared
        self._ambient = ambient if callable(ambient) else lambda _s: ambient
        self._heat_k, self._tau_s = heat_k, tau_s
        self._scale, self._period_s = scale, period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="plant", daemon=True)
        self.highest_celsius = shared.celsius
        self.history: list[Moment] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        began_s = before_s = time.monotonic()
        busy_s = self._shared.busy_s
        celsius = self._shared.celsius
        while not self._stop.wait(self._period_s):
            now_s, now_busy_s = time.monotonic(), self._shared.busy_s
            duty = min((now_busy_s - busy_s) / (now_s - before_s), 1.0)
            plant_s = (now_s - began_s) * self._scale
            celsius = self.step(celsius, duty, plant_s, (now_s - before_s) * self._scale)
            before_s, busy_s = now_s, now_busy_s
            self._shared.celsius = celsius
            self.highest_celsius = max(self.highest_celsius, celsius)
            if len(self.history) < MOST_MOMENTS:
                self.history.append(Moment(plant_s, celsius, duty))

    def step(self, celsius: float, duty: float, plant_s: float, elapsed_s: float) -> float:
        """Return the temperature after some of the plant's seconds at a duty of 0 to 1."""
        goal = self._ambient(plant_s) + self._heat_k * duty
        return goal + (celsius - goal) * math.exp(-elapsed_s / self._tau_s)
