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


class Desk(Protocol):
    """What a node does with requests of its fleet."""

    def has_room(self) -> bool:
        """Tell whether it would begin with one at once."""
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

    def turns(self, session: str) -> tuple[Message, ...]:
        """Return what was said in a conversation."""
        ...

    def remember(self, session: str, turns: Sequence[Message]) -> None:
        """Take over what was said in a conversation elsewhere."""
        ...
