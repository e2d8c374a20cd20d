"""States with hysteresis: how hot the card is, and whether its memory leaks. No clock, no I/O.

Heat rises at once and falls late. A temperature at or above a threshold is that state, however far
it jumped. Falling, ``warn`` is left ``hysteresis_celsius`` below its threshold, and a pause
(``critical``, ``emergency``) below ``resume_celsius``, into ``hot``: to go on at full speed would
lead straight back.

``hot`` needs more. It halves the work, and so is the cause of its own cooling: left 3 °C below its
threshold, a card that full load would heat to 94 °C changes its state some thirty times on one
warm afternoon, and hundreds of times in a worse place (``test_thermal_ramp`` has the figures). So:

- It is left only where full load would not be hot either: lower by what the spared work would have
  added. That is not known of a card, only assumed (``LOAD_RISE_CELSIUS``).
- What becomes hot again within an hour stays hot for an hour: the card's rise is higher than that.
- After six hours the plain hysteresis will do: a card in a hot cupboard may never cool down that
  far, and yet bear its real load.
- Each pause halves the work that a hot card does after it, until it is hot no more. Else half of
  the work would lead to the next pause, and so on, minutes apart.
"""

import math
from dataclasses import dataclass

from edge_llm.device.reading import is_plausible
from edge_llm.protocol import Heat
from edge_llm.settings import ThermalSettings

__all__ = ["LOAD_RISE_CELSIUS", "HeatGauge", "Leak", "LeakWatch"]

UNKNOWN_AFTER_S = 600.0

LOAD_RISE_CELSIUS = 30.0
"""By how much full load heats the card at most. Reported of cards in the open: 37 to 41 °C idle, 50
to 70 °C with a language model."""

RELAPSE_S = 3600.0
HOT_AT_MOST_S = 6 * 3600.0
MIN_DUTY = 0.05

HEATS: tuple[Heat, ...] = ("normal", "warn", "hot", "critical", "emergency")
NORMAL, WARN, HOT, CRITICAL, EMERGENCY = range(5)


class HeatGauge:
    """Makes a state of temperatures.

    Args:
        settings: the thresholds, and how much a hot card works.
    """

    def __init__(self, settings: ThermalSettings) -> None:
        self._begins = (
            -math.inf,
            settings.warn_celsius,
            settings.hot_celsius,
            settings.critical_celsius,
            settings.emergency_celsius,
        )
        self._hysteresis = settings.hysteresis_celsius
        self._most_duty = settings.hot_duty
        self._hot_duty = settings.hot_duty
        self._goes_on_below = min(
            settings.resume_celsius, settings.critical_celsius - settings.hysteresis_celsius
        )
        self._level: int | None = None
        self._known_at = -math.inf
        self._is_guess = False
        self._hot_since = -math.inf
        self._hot_until = -math.inf  # when it was last left for something cooler
        self._is_relapse = False

    @property
    def heat(self) -> Heat | None:
        """The state; None as long as no temperature is known."""
        return None if self._level is None else HEATS[self._level]

    @property
    def duty(self) -> float:
        """Which part of the time the card may work, 0 to 1; changes only with the state."""
        if self._level is None or self._level < HOT:
            return 1.0
        return self._hot_duty if self._level == HOT else 0.0

    def note(self, celsius: float | None, now: float) -> bool:
        """Take a reading, and return whether the state has changed.

        What is None, not finite or beyond all reason is unknown, and changes nothing for ten
        minutes. After that the state is unknown too, but for a pause, which becomes ``hot``: with a
        tool that is broken for good it would never end, and the installation is better served by a
        card that works with care. The card still protects itself.

        Args:
            celsius: of the card.
            now: seconds, monotonic.
        """
        before = self.heat
        if celsius is not None and is_plausible(celsius):
            self._known_at = now
            self._is_guess = False
            self._move(self._level_at(celsius, now), now)
        elif now - self._known_at >= UNKNOWN_AFTER_S and not self._is_guess:
            self._lose(now)
        return self.heat != before

    def _level_at(self, celsius: float, now: float) -> int:
        level = self._level or NORMAL
        risen = max(level for level, begin in enumerate(self._begins) if celsius >= begin)
        while level > risen and self._may_leave(level, celsius, now):
            level -= 1
        return max(level, risen)

    def _may_leave(self, level: int, celsius: float, now: float) -> bool:
        if level > HOT:
            return celsius < self._goes_on_below
        limit = self._begins[level] - self._hysteresis
        if level < HOT:
            return celsius < limit
        hot_s = now - self._hot_since if self._level == HOT else 0.0
        if hot_s >= HOT_AT_MOST_S:
            return celsius < limit
        is_long_enough = hot_s >= RELAPSE_S or not self._is_relapse
        return is_long_enough and celsius < limit - (1 - self._hot_duty) * LOAD_RISE_CELSIUS

    def _move(self, level: int, now: float) -> None:
        before, self._level = self._level or NORMAL, level
        if before < HOT <= level:
            self._is_relapse = now - self._hot_until < RELAPSE_S
            self._hot_duty = self._most_duty
        if before != HOT == level:
            self._hot_since = now
        if before <= HOT < level:
            self._hot_duty = max(self._hot_duty / 2, min(MIN_DUTY, self._most_duty))
        if before >= HOT > level:
            self._hot_until = now

    def _lose(self, now: float) -> None:
        if self._level is not None and self._level > HOT:
            self._is_guess = True
            self._move(HOT, now)
        else:
            self._level = None


SETTLE_S = 15.0  # the card's memory is given back, and its tool tells it, some seconds late
NUM_LOW = 2  # readings in a row
RELOAD_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True)
class Leak:
    """The card has less free memory than what the model left, and the margin is used up."""

    baseline_mib: int
    """Free soon after the model was loaded."""
    free_mib: int
    """Free now."""
    is_ours: bool
    """False if an earlier reload did not bring the memory back: another process has it."""
    wants_reload: bool
    """Whether to load the model again; else it is only to be told."""


class LeakWatch:
    """Finds that the card's free memory goes down while a model is loaded.

    A leak is told once per load, and a reload asked for with it. If the hour's reload has been
    used up, that comes as a second word, when the hour is over and the memory is still low. A
    reload that brings back less than half the margin shows that the memory is not ours; from then
    on leaks are told without asking, until a load finds that much more free memory than the load
    before.

    Args:
        margin_mib: how far it may fall, in MiB.
        settle_s: how long after a load a reading counts, in seconds.
    """

    def __init__(self, margin_mib: int, settle_s: float = SETTLE_S) -> None:
        self._margin_mib = margin_mib
        self._settle_s = settle_s
        self._settled_at = math.inf
        self._baseline_mib: int | None = None
        self._before_mib: int | None = None  # free before a reload that is to bring it back
        self._num_low = 0
        self._was_told = False
        self._was_asked = False
        self._asked_at = -math.inf
        self._is_ours = True

    def loaded(self, now: float) -> None:
        """Begin anew: a model was loaded. What it leaves is read when that has settled."""
        if not self._is_ours and self._baseline_mib is not None:
            self._before_mib = self._baseline_mib
        self._settled_at = now + self._settle_s
        self._baseline_mib = None
        self._num_low = 0
        self._was_told = self._was_asked = False

    def note(self, free_mib: int | None, now: float) -> Leak | None:
        """Take a reading, and return what is news; an unknown one, None, changes nothing.

        Args:
            free_mib: CMM that is free, in MiB.
            now: seconds, monotonic.
        """
        if free_mib is None:
            return None
        if self._baseline_mib is None:
            if now >= self._settled_at:
                self._begin(free_mib)
            return None
        is_low = free_mib < self._baseline_mib - self._margin_mib
        self._num_low = self._num_low + 1 if is_low else 0
        if self._num_low < NUM_LOW:
            return None
        return self._tell(self._baseline_mib, free_mib, now)

    def _begin(self, free_mib: int) -> None:
        self._baseline_mib = free_mib
        if self._before_mib is not None:
            self._is_ours = free_mib - self._before_mib > self._margin_mib / 2
            self._before_mib = None

    def _tell(self, baseline_mib: int, free_mib: int, now: float) -> Leak | None:
        may_ask = self._is_ours and not self._was_asked
        wants_reload = may_ask and now - self._asked_at >= RELOAD_EVERY_S
        if self._was_told and not wants_reload:
            return None
        self._was_told = True
        if wants_reload:
            self._was_asked, self._asked_at, self._before_mib = True, now, free_mib
        return Leak(baseline_mib, free_mib, self._is_ours, wants_reload)
