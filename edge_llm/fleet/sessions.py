"""Conversations of the fleet: what was said, which node has computed it, and whose turn it is."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from edge_llm.fleet.first import put_first
from edge_llm.fleet.names import FleetNames
from edge_llm.protocol import Message

__all__ = ["FleetSessions", "Held"]

_TURNS = TypeAdapter(tuple[Message, ...])


class Held(NamedTuple):
    """A conversation as it is kept."""

    node: str
    """Which has its KV rows, or had them last."""
    turns: tuple[Message, ...]


class FleetSessions:
    """The bucket of conversations, and that of their locks.

    Args:
        client: of NATS.
        names: of the fleet.
        node: our own name.
    """

    def __init__(self, client: Any, names: FleetNames, node: str) -> None:
        self._js, self._names, self._node = client.jetstream(), names, node

    async def load(self, session: str) -> Held | None:
        """Return a conversation; None if there is none.

        Raises:
            nats.errors.Error: nobody could say.
        """
        from nats.js.errors import NotFoundError

        try:
            message = await self._js.get_last_msg(
                f"KV_{self._names.sessions}", self._subject(session)
            )
            kept = json.loads(message.data or b"")
            return Held(str(kept["node"]), _TURNS.validate_python(kept["turns"], strict=False))
        except (NotFoundError, ValueError, KeyError, TypeError, ValidationError):
            return None

    async def save(self, session: str, turns: Sequence[Message]) -> None:
        """Keep what a conversation has become; this node is where it goes on best.

        Raises:
            nats.errors.Error: it could not be written.
        """
        said = _TURNS.dump_python(tuple(turns), mode="json")
        kept = json.dumps({"node": self._node, "turns": said}, ensure_ascii=False)
        await self._js.publish(self._subject(session), kept.encode())

    async def forget(self, session: str) -> None:
        """Forget a conversation.

        Raises:
            nats.errors.Error: it is not forgotten.
        """
        await self._js.purge_stream(f"KV_{self._names.sessions}", subject=self._subject(session))

    async def lock(self, session: str) -> bool:
        """Have the turn in a conversation, until ``unlock`` or until nobody extends it any more.

        Raises:
            nats.errors.Error: nobody could say.
        """
        return await put_first(self._js, self._lock(session), self._node.encode())

    async def extend(self, session: str) -> None:
        """Keep the turn.

        Raises:
            nats.errors.Error: it may be lost.
        """
        await self._js.publish(self._lock(session), self._node.encode())

    async def unlock(self, session: str) -> None:
        """Let the next one have its turn.

        Raises:
            nats.errors.Error: it has to wait until the lock is too old.
        """
        await self._js.purge_stream(f"KV_{self._names.locks}", subject=self._lock(session))

    def _subject(self, session: str) -> str:
        return f"$KV.{self._names.sessions}.{_token(session)}"

    def _lock(self, session: str) -> str:
        return f"$KV.{self._names.locks}.{_token(session)}"


def _token(session: str) -> str:
    """A session's name may have dots; one level must be it."""
    return session.encode().hex()
