"""Finished answers, for all nodes: a request that is delivered twice is answered with one text."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from edge_llm.fleet.first import put_first
from edge_llm.fleet.names import FleetNames
from edge_llm.outgoing import Outgoing
from edge_llm.protocol import Message
from edge_llm.store import dump_messages, load_messages

__all__ = ["Answered", "FleetAnswers"]

_TURNS = TypeAdapter(tuple[Message, ...])


class Answered(NamedTuple):
    """How a request ended."""

    finals: Sequence[Outgoing]
    """Its final messages."""
    turns: tuple[Message, ...] = ()
    """Its conversation, the answer included."""


class FleetAnswers:
    """The bucket of finished answers.

    Args:
        client: of NATS.
        names: of the fleet.
    """

    def __init__(self, client: Any, names: FleetNames) -> None:
        self._js, self._bucket = client.jetstream(), names.answers

    async def find(self, name: str) -> Answered | None:
        """Return how a request ended, if it did.

        Raises:
            nats.errors.Error: nobody could say.
        """
        from nats.js.errors import NotFoundError

        try:
            message = await self._js.get_last_msg(f"KV_{self._bucket}", self._subject(name))
            kept = json.loads(message.data or b"")
            finals = load_messages(json.dumps(kept["finals"]).encode())
            turns = _TURNS.validate_python(kept["turns"], strict=False)
        except (NotFoundError, ValueError, KeyError, TypeError, ValidationError):
            return None
        return Answered(finals, turns) if finals else None

    async def keep(self, name: str, answered: Answered) -> Answered:
        """Remember how a request ended; return what is to be said.

        That is what another node has remembered before, where our lease was lost meanwhile.

        Raises:
            nats.errors.Error: it could not be written.
        """
        kept = {
            "finals": json.loads(dump_messages(answered.finals)),
            "turns": _TURNS.dump_python(answered.turns, mode="json"),
        }
        data = json.dumps(kept, ensure_ascii=False).encode()
        if await put_first(self._js, self._subject(name), data):
            return answered
        return await self.find(name) or answered

    def _subject(self, name: str) -> str:
        return f"$KV.{self._bucket}.{name}"
