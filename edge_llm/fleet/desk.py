"""What a fleet asks of a node."""

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from edge_llm.errors import EdgeLLMError
from edge_llm.mqtt import Publication
from edge_llm.outgoing import Outgoing
from edge_llm.protocol import Message

__all__ = ["Desk", "Sorted"]


class Sorted(NamedTuple):
    """What there is to know of a request before it waits."""

    request_id: str
    priority: int
    node: str | None = None
    """The only one that may answer."""
    model: str | None = None
    session: str | None = None
    ttl_s: float | None = None
    """How long it may wait, from when it came in."""


class Desk(Protocol):
    """What a node does with requests of its fleet."""

    def has_room(self) -> bool:
        """Tell whether it would begin with one at once."""
        ...

    def is_able(self) -> bool:
        """Tell whether it goes on with what it has in hand: is neither hot, nor held, nor hurt."""
        ...

    def hand_back(self) -> None:
        """Give back what it has in hand of the fleet's, unanswered."""
        ...

    def models(self) -> Collection[str]:
        """Return what it serves."""
        ...

    def sort(self, publication: Publication) -> Sorted | None:
        """Read a request; None if it is to be refused here and now."""
        ...

    def refuse(self, error: EdgeLLMError, publication: Publication) -> None:
        """Refuse a request that nothing is wrong with in itself."""
        ...

    def say(self, finals: Sequence[Outgoing], publication: Publication) -> None:
        """Publish final messages, and then acknowledge what they are for."""
        ...

    def cancel(self, request_id: str) -> None:
        """End a request that it has in hand."""
        ...

    def replace(self, route: str) -> None:
        """End what it has in hand of a route, as a newer press took its place."""
        ...

    def turns(self, session: str) -> tuple[Message, ...]:
        """Return what was said in a conversation."""
        ...

    def remember(self, session: str, turns: Sequence[Message]) -> None:
        """Take over what was said in a conversation elsewhere."""
        ...
