"""What to try next when the engine has failed, and when: steps, back-off and budgets. No I/O.

Each step of the ladder is tried ``failures_per_step`` times, then the next one. After the last one
a person is needed; meanwhile it goes on trying by itself, more and more rarely. A success leads
back to the foot. These hold whatever the caller does:

- Two attempts are at least ``interval_s`` apart. Only if the latest one is longer ago than that is
  the first one after a success made at once: an engine that dies as soon as it is well must not
  make the card start every second.
- No hour has more attempts than ``max_per_hour``. If they are used up, the next one waits until the
  oldest one is an hour old.
- No hour has more resets of card or driver than ``max_resets_per_hour``. If they are used up, it is
  a restart instead of waiting: that does the card no harm, and may be all that it takes.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge_llm.protocol import RecoveryStep
from edge_llm.settings import RecoverySettings

__all__ = ["Attempt", "Ladder", "Tried"]

HOUR_S = 3600.0
LONGEST_INTERVAL_S = 60.0
LONGEST_RETRY_S = 3600.0
MAX_DOUBLINGS = 16
MIN_REMEMBERED = 256

RESETS: tuple[RecoveryStep, ...] = ("reboot_card", "reload_driver")
WORDS: dict[RecoveryStep, tuple[str, str]] = {
    "restart": ("restart", "restarts"),
    "reboot_card": ("reboot of the card", "reboots of the card"),
    "reload_driver": ("reload of the driver", "reloads of the driver"),
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """What to do next; it replaces the attempt before, if that has not been made yet."""

    step: RecoveryStep
    """Something that can be done, so never ``wait_for_help``."""
    wait_s: float
    """How long to wait before, in seconds."""
    number: int
    """Since the latest success, from 1."""
    reason: str
    """Of the failure that it follows."""
    needs_help: bool = False
    """All steps have been tried: a person is needed, and this is only in case it helps."""


class Tried(NamedTuple):
    """An attempt in the past, or the one that is waited for."""

    at: float
    step: RecoveryStep
    reason: str


class Ladder:
    """Remembers what was tried, and says what is next.

    Times are seconds on a monotonic clock, and are never earlier than those said before. An attempt
    is taken as made when its wait is over.

    Args:
        settings: how often what may be tried.
        steps: what can be done here, in this order: ``restart``, ``reboot_card`` and
            ``reload_driver``, of which the latter two may be missing.

    Raises:
        ValueError: these are no such steps.
    """

    def __init__(self, settings: RecoverySettings, steps: Sequence[RecoveryStep]) -> None:
        if tuple(steps) != tuple(step for step in WORDS if step in {"restart", *steps}):
            raise ValueError(f"these are no steps of a ladder: {', '.join(steps)}")
        self._settings = settings
        self._resets = [
            step for step in steps if step in RESETS and settings.max_resets_per_hour > 0
        ]
        self._steps: tuple[RecoveryStep, ...] = ("restart", *self._resets)
        self._failures = 0  # in a row
        self._tried: Counter[RecoveryStep] = Counter()
        self._next: RecoveryStep | None = None
        self.history: deque[Tried] = deque(maxlen=max(MIN_REMEMBERED, settings.max_per_hour))
        """Across successes, the latest one last."""
        self.needs_help = False
        """Whether all steps had been tried when it failed last."""

    @property
    def tried(self) -> str:
        """What has failed since the latest success: ``3 restarts, 1 reboot of the card``."""
        counted = ((self._tried[step], words) for step, words in WORDS.items())
        return ", ".join(f"{num} {words[num > 1]}" for num, words in counted if num) or "nothing"

    def fail(self, reason: str, now: float) -> Attempt:
        """Take it that the engine has failed, and with it the latest attempt; return the next."""
        self._end_wait(now)
        if self._next:
            self._tried[self._next] += 1
        rung = min(self._failures // self._settings.failures_per_step, len(self._steps))
        turn = self._failures - rung * self._settings.failures_per_step  # on this rung, from 0
        at = self._next_time(rung, turn, now)
        self._next = step = self._choose(rung, turn, at)
        self._failures += 1
        self.needs_help = rung == len(self._steps)
        self.history.append(Tried(at, step, reason))
        return Attempt(step, max(0.0, at - now), self._failures, reason, self.needs_help)

    def succeed(self, now: float) -> None:
        """Take it that the engine has proved itself: not when it has started, but when it works."""
        self._end_wait(now)
        self._failures = 0
        self.needs_help = False
        self._tried.clear()
        self._next = None

    def _end_wait(self, now: float) -> None:
        """Wait no more for an attempt, as it was made before its time, or never will be."""
        if self.history and self.history[-1].at > now:
            self.history[-1] = self.history[-1]._replace(at=now)

    def _next_time(self, rung: int, turn: int, now: float) -> float:
        history, most = self.history, self._settings.max_per_hour
        at = max(now, history[-1].at + self._spacing_s(rung, turn)) if history else now
        return max(at, history[-most].at + HOUR_S) if len(history) >= most else at

    def _spacing_s(self, rung: int, turn: int) -> float:
        interval_s, retry_s = self._settings.interval_s, self._settings.retry_after_s
        if rung == len(self._steps):
            return _doubled(max(retry_s, interval_s), turn, LONGEST_RETRY_S)
        # The very first attempt is made at once, and is none that the second one doubles.
        return _doubled(interval_s, turn - (rung == 0), LONGEST_INTERVAL_S)

    def _choose(self, rung: int, turn: int, at: float) -> RecoveryStep:
        step: RecoveryStep = "restart"
        if rung < len(self._steps):
            step = self._steps[rung]
        elif turn % 2 and self._resets:  # each second time a reset, one after another
            step = self._resets[turn // 2 % len(self._resets)]
        return "restart" if step in RESETS and not self._may_reset(at) else step

    def _may_reset(self, at: float) -> bool:
        resets = sum(past.step in RESETS and past.at > at - HOUR_S for past in self.history)
        return resets < self._settings.max_resets_per_hour


def _doubled(first: float, times: int, longest: float) -> float:
    doubled: float = first * 2.0 ** max(0, min(times, MAX_DOUBLINGS))
    return min(doubled, max(first, longest))
