"""What an engine has done since it was opened, for whoever keeps metrics."""

from collections.abc import Callable
from dataclasses import dataclass, field

from edge_llm.protocol import Timing, Usage

__all__ = ["Ended", "EngineStats"]


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that has come to its end."""

    outcome: str
    """Its finish reason, or the code of its error; ``cancelled`` if nobody waited any more."""
    usage: Usage
    timing: Timing
    text: str = ""
    """What was answered; for doors that show it, never for a log."""


@dataclass(slots=True)
class EngineStats:
    """Counts that only grow, what is in hand now, and who wants to hear of each end."""

    num_waiting: int = 0
    num_running: int = 0
    num_restarts: int = 0
    """How often a worker process was replaced."""
    watchers: list[Callable[[Ended], None]] = field(default_factory=list)

    def note(
        self, outcome: str, timing: Timing, usage: Usage | None = None, text: str = ""
    ) -> None:
        """Tell that a request has ended."""
        ended = Ended(outcome, usage or Usage(), timing, text)
        for watcher in self.watchers:
            watcher(ended)
