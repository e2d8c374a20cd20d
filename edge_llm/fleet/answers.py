"""Finished answers, for all nodes: a request that is delivered twice is answered with one text."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from edge_llm.fleet.first import put_first
from edge_llm.fleet.names import FleetNames
from edge_llm.fleet.outage import RESENT_S
from edge_llm.outgoing import Outgoing
from edge_llm.protocol import Message
from edge_llm.store import dump_messages, load_messages

__all__ = ["Answered", "FleetAnswers"]

NUM_COPIES = 8
"""Of a request, and of others with the same words, that are looked at."""
_TURNS = TypeAdapter(tuple[Message, ...])


class Answered(NamedTuple):
    """How a request ended."""

    finals: Sequence[Outgoing]
    """Its final messages."""
    turns: tuple[Message, ...] = ()
    """Its conversation, the answer included."""
    arrived_at: float = 0.0
    """When it came in, in Unix seconds."""


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
        found = await self._find(name)
        return found[1] if found else None

    async def _find(self, name: str) -> tuple[int, Answered] | None:
        """Return the place in the bucket of how a request ended, too."""
        from nats.js.errors import NotFoundError

        try:
            message = await self._js.get_last_msg(f"KV_{self._bucket}", self._subject(name))
            kept = json.loads(message.data or b"")
            finals = load_messages(json.dumps(kept["finals"]).encode())
            turns = _TURNS.validate_python(kept["turns"], strict=False)
            arrived_at = float(kept["arrived_at"])
        except (NotFoundError, ValueError, KeyError, TypeError, ValidationError):
            return None
        return (message.seq or 0, Answered(finals, turns, arrived_at)) if finals else None

    async def keep(self, name: str, answered: Answered, *, may_be_resent: bool) -> Answered:
        """Remember how a request ended; return what is to be said.

        That is what another node has remembered before, where our lease was lost meanwhile; or what
        was remembered first of those that say the same and came in about then, if it may be that
        its client has sent it twice.

        Raises:
            nats.errors.Error: it could not be written.
        """
        kept = {
            "finals": json.loads(dump_messages(answered.finals)),
            "turns": _TURNS.dump_python(answered.turns, mode="json"),
            "arrived_at": answered.arrived_at,
        }
        data = json.dumps(kept, ensure_ascii=False).encode()
        if not await put_first(self._js, self._subject(name), data):
            return await self.find(name) or answered
        return await self._find_first(name, answered) if may_be_resent else answered

    async def _find_first(self, name: str, answered: Answered) -> Answered:
        """Return what was kept first; the bucket's order is the same for all nodes."""
        words, _, seq = name.partition(".")
        info = await self._js.stream_info(
            f"KV_{self._bucket}", subjects_filter=self._subject(f"{words}.*")
        )
        seqs = [int(subject.rpartition(".")[2]) for subject in info.state.subjects or {}]
        nearest = sorted(seqs, key=lambda other: abs(other - int(seq)))[:NUM_COPIES]
        found = [await self._find(f"{words}.{other}") for other in nearest]
        copies = [
            copy
            for copy in found
            if copy and abs(copy[1].arrived_at - answered.arrived_at) < RESENT_S
        ]
        return min(copies, default=(0, answered), key=lambda copy: copy[0])[1]

    def _subject(self, name: str) -> str:
        return f"$KV.{self._bucket}.{name}"
