"""What this node does with requests of its fleet."""

from collections.abc import Collection, Sequence

from edge_llm.engine.queue import QueuedEngine
from edge_llm.errors import EdgeLLMError
from edge_llm.fleet import Sorted
from edge_llm.fleet.names import USUAL_PRIORITY
from edge_llm.mqtt import Publication
from edge_llm.outgoing import Outgoing
from edge_llm.protocol import Message
from edge_llm.service import Service
from edge_llm.store import Sessions

__all__ = ["NodeDesk"]

ABLE = ("generating", "idle")


class NodeDesk:
    """A node, as its fleet sees it; see ``Desk``.

    Args:
        engine: what answers.
        service: what reads requests, and publishes.
        sessions: conversations as this node has them.
    """

    def __init__(self, engine: QueuedEngine, service: Service, sessions: Sessions) -> None:
        self._engine, self._service, self._sessions = engine, service, sessions

    def has_room(self) -> bool:
        """Tell whether the engine would begin with a request at once."""
        queue = self._engine.health()
        is_free = not (queue.waiting or queue.running or queue.holds)
        can_say = self._service.is_connected and self._service.num_running == 0
        return is_free and self._engine.state == "ready" and can_say

    def is_able(self) -> bool:
        """Tell whether the engine goes on with what this node has in hand."""
        return self._engine.state == "ready" and (
            self._engine.activity in ABLE or not self._engine.health().holds
        )

    def hand_back(self) -> None:
        """Give back what this node has in hand of the fleet's, unanswered."""
        self._service.hand_back()

    def models(self) -> Collection[str]:
        """Return what the engine serves."""
        return [model.id for model in self._engine.models]

    def sort(self, publication: Publication) -> Sorted | None:
        """Read a request; None if something is wrong with it."""
        read = self._service.read(publication)
        if read is None:
            return None
        request_id, request = read
        return Sorted(
            request_id=request_id,
            priority=USUAL_PRIORITY if request.priority is None else request.priority,
            node=request.node,
            model=request.model,
            session=request.session,
            ttl_s=min((s for s in (request.ttl_s, request.time_budget_s) if s), default=None),
        )

    def refuse(self, error: EdgeLLMError, publication: Publication) -> None:
        """Refuse a request that nothing is wrong with in itself."""
        self._service.refuse(error, publication)

    def say(self, finals: Sequence[Outgoing], publication: Publication) -> None:
        """Publish an answer that was given before, and acknowledge what it is for."""
        self._service.repeat(finals, publication)

    def cancel(self, request_id: str) -> None:
        """End a request that this node has in hand."""
        self._service.cancel(request_id)

    def replace(self, route: str) -> None:
        """End what this node has in hand of a route, as a newer press took its place."""
        self._service.replace(route)

    def turns(self, session: str) -> tuple[Message, ...]:
        """Return what was said in a conversation, as this node has it."""
        return self._sessions.turns(session)

    def remember(self, session: str, turns: Sequence[Message]) -> None:
        """Take over what was said in a conversation elsewhere."""
        if turns:
            self._sessions.keep(session, turns)
        else:
            self._sessions.reset(session)
