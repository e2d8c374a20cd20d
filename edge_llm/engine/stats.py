"""What an engine has done since it was opened, for whoever tells of it: metrics, health, a page."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_llm.errors import EdgeLLMError
from edge_llm.protocol import (
    ChatRequest,
    Counts,
    Event,
    FaultReport,
    RecoveryReport,
    RecoveryStep,
    Timing,
    Usage,
)

__all__ = ["Ended", "EngineStats", "Listener"]

Listener = Callable[[int, ChatRequest, Event | None], None]
"""Hears of a request: its number since the engine was opened, what is asked, and what happens to
it. None comes first, when it is taken in; how it ends, the watchers are told."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that has come to its end."""

    outcome: str
    """Its finish reason, or the code of its error; ``cancelled`` if nobody waited any more."""
    usage: Usage
    timing: Timing
    text: str = ""
    """What was answered; for doors that show it, never for a log."""
    number: int = 0
    """Of the request, since the engine was opened."""


@dataclass(frozen=True, slots=True)
class _Fault:
    code: str
    message: str
    at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class _Recovery:
    step: RecoveryStep
    reason: str
    attempt: int
    at: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class EngineStats:
    """Counts that only grow, what is in hand now, what went wrong last, and who wants to hear.

    Times are of the monotonic clock, in seconds.
    """

    num_waiting: int = 0
    num_running: int = 0
    num_restarts: int = 0
    """How often a worker process was replaced."""
    num_recoveries: int = 0
    """How often the engine was ready again after a failure."""
    tokens_per_s: float | None = None
    """Of the latest answer."""
    attention: str | None = None
    """What a person should do about the engine; None if nothing."""
    opened_at: float = field(default_factory=time.monotonic)
    watchers: list[Callable[[Ended], None]] = field(default_factory=list)
    """Called at each end of a request."""
    listeners: list[Listener] = field(default_factory=list)
    """Called at each event of a request."""
    on_change: list[Callable[[], None]] = field(default_factory=list)
    """Called when the state changes, or a step is taken to recover."""
    _outcomes: Counter[str] = field(default_factory=Counter)
    _usage: Counter[str] = field(default_factory=Counter)
    _fault: _Fault | None = None
    _recovery: _Recovery | None = None
    _is_over: bool = True
    _num_requests: int = 0

    def take(self, request: ChatRequest) -> int:
        """Tell that a request has come in; return its number."""
        self._num_requests += 1
        self.hear(self._num_requests, request, None)
        return self._num_requests

    def hear(self, number: int, request: ChatRequest, event: Event | None) -> None:
        """Tell what happens to a request."""
        for listener in tuple(self.listeners):
            listener(number, request, event)

    def note(
        self,
        outcome: str,
        timing: Timing,
        usage: Usage | None = None,
        text: str = "",
        number: int = 0,
    ) -> None:
        """Tell that a request has ended."""
        ended = Ended(outcome, usage or Usage(), timing, text, number)
        self._outcomes[outcome] += 1
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
            self._usage[name] += getattr(ended.usage, name)
        if timing.tokens_per_s:
            self.tokens_per_s = timing.tokens_per_s
        for watcher in tuple(self.watchers):
            watcher(ended)

    def note_fault(self, fault: EdgeLLMError) -> None:
        """Take down what went wrong."""
        self._fault = _Fault(fault.code, fault.message)

    def note_step(self, step: RecoveryStep, reason: str, attempt: int) -> None:
        """Take down, and tell, what is being done about it."""
        self._recovery, self._is_over = _Recovery(step, reason, attempt), False
        self.tell()

    def note_ready(self) -> None:
        """Take down, and tell, that the engine works, whatever went before."""
        self.num_recoveries += not self._is_over
        self._is_over, self.attention = True, None
        self.tell()

    def tell(self) -> None:
        """Tell that something has changed that people look at."""
        for watcher in tuple(self.on_change):
            watcher()

    def counts(self) -> Counts:
        """Return all counts, as they go on the wire."""
        return Counts(
            requests=dict(self._outcomes),
            restarts=self.num_restarts,
            recoveries=self.num_recoveries,
            **self._usage,
        )

    def fault(self) -> FaultReport | None:
        """Return the latest failure, as it goes on the wire."""
        if (fault := self._fault) is None:
            return None
        return FaultReport(code=fault.code, message=fault.message, age_s=_age_s(fault.at))

    def recovery(self) -> RecoveryReport | None:
        """Return the latest step of a recovery, as it goes on the wire."""
        if (step := self._recovery) is None:
            return None
        return RecoveryReport(
            step=step.step,
            reason=step.reason,
            attempt=step.attempt,
            age_s=_age_s(step.at),
            is_over=self._is_over,
        )


def _age_s(at: float) -> float:
    return round(time.monotonic() - at, 1)
