"""What this node does with requests of its fleet."""

from collections.abc import Collection, Sequence

from edge_llm.engine.queue import QueuedEngine
from edge_llm.errors import QueueFullError
from edge_llm.fleet import FleetNames, Ticket
from edge_llm.fleet.names import ANY
from edge_llm.mqtt import Publication
from edge_llm.outgoing import Outgoing
from edge_llm.service import Service

__all__ = ["NodeDesk"]

PRIORITY = 5
"""Of requests that do not say."""


class NodeDesk:
    """A node, as its fleet sees it.

    Args:
        engine: what answers.
        service: what reads requests, and publishes.
    """

    def __init__(self, engine: QueuedEngine, service: Service) -> None:
        self._engine, self._service = engine, service

    def has_room(self) -> bool:
        """Tell whether the engine would begin with a request at once."""
        queue = self._engine.health()
        is_free = not (queue.waiting or queue.running or queue.holds)
        return is_free and self._engine.state == "ready" and self._service.num_running == 0

    def may_serve(self) -> Collection[str]:
        """Return the classes of requests for our models."""
        return [FleetNames.of_model(model.id) for model in self._engine.models]

    def sort(self, publication: Publication) -> Ticket | None:
        """Say for whom a request is, and how urgent; None if something is wrong with it."""
        request = self._service.read(publication)
        if request is None:
            return None
        who = ANY
        if request.node is not None:
            who = FleetNames.of_node(request.node)
        elif request.model is not None:
            who = FleetNames.of_model(request.model)
        return Ticket(who, PRIORITY if request.priority is None else request.priority)

    def refuse_full(self, publication: Publication) -> None:
        """Refuse a request, as too many wait."""
        self._service.refuse(QueueFullError("too many requests wait in the fleet"), publication)

    def say(self, finals: Sequence[Outgoing], publication: Publication) -> None:
        """Publish an answer that was given before, and acknowledge what it is for."""
        self._service.repeat(finals, publication)
