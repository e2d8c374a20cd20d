"""What was seen: nodes, requests, replies, and the single things that happened."""

from dataclasses import dataclass
from typing import NamedTuple

from edge_llm.protocol import FleetHealth

__all__ = ["Happening", "NodeSeen", "ReplySeen", "RequestSeen"]


class Happening(NamedTuple):
    """One thing that happened, for those who read lines."""

    kind: str
    """``node``, ``request``, ``reply``, ``error`` or ``fleet``."""
    who: str
    what: str
    text: str = ""


@dataclass(slots=True)
class NodeSeen:
    """A node, as its retained topics tell of it."""

    name: str
    since: float
    """When it was first seen in this life."""
    is_older: bool
    """It was there before we looked."""
    status: str = "?"
    activity: str = ""
    card: str = ""
    """How warm it is, and a word if that is too much."""
    attention: str = ""
    """What a person should do."""
    version: str = ""
    models: str = ""
    boot_id: str = ""
    fleet: FleetHealth | None = None
    """The fleet, as it sees it."""
    heard_at: float = 0.0
    """When it said so."""


@dataclass(slots=True)
class RequestSeen:
    """A request without a final message."""

    id: str
    asked_at: float
    heard_at: float
    state: str
    prompt: str = ""
    text: str = ""
    """The end of what was said of the answer."""
    num_chars: int = 0
    """Of all that was said."""
    is_older: bool = False
    """It was asked before we looked, or where we don't."""

    @property
    def waits(self) -> bool:
        """Whether its turn has not come, as far as one can see."""
        return self.state == "asked" or self.state.startswith("queued")


@dataclass(frozen=True, slots=True)
class ReplySeen:
    """A final message, or what a node says of a request that it can't answer."""

    id: str
    at: float
    end: str
    """Why the text ended, or the code of the error."""
    text: str = ""
    """The answer, or the message of the error."""
    is_error: bool = False
    took_s: float | None = None
    num_tokens: int | None = None
    num_chars: int = 0

    @property
    def happening(self) -> Happening:
        """The same as a line."""
        if self.is_error:
            return Happening("error", self.id, self.end, self.text)
        tokens = "" if self.num_tokens is None else f", {self.num_tokens} tokens"
        took = "" if self.took_s is None else f", {self.took_s:.1f} s"
        return Happening("reply", self.id, f"{self.end}{tokens}{took}", self.text)
