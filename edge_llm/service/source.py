"""Where requests come from, if not from the broker's request topics: a fleet's work queue."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from edge_llm.mqtt import Publication
from edge_llm.outgoing import Outgoing
from edge_llm.route import Route

__all__ = ["RequestSource"]


class RequestSource(Protocol):
    """Brings requests, each with a lease that lasts until it is acknowledged or given back."""

    async def run(self, take: Callable[[Publication], None]) -> None:
        """Hand out what comes in, for ever."""
        ...

    def stop(self) -> None:
        """Hand out no more; what was handed out keeps its lease."""
        ...

    async def settle(self) -> None:
        """Return when all that was handed out is acknowledged or given back, or after a while."""
        ...

    def owns(self, publication: Publication) -> bool:
        """Tell whether a message came from here."""
        ...

    def ack(self, publication: Publication) -> None:
        """Forget a message, as it is dealt with; harmless if that was said before."""
        ...

    def give_back(self, publication: Publication) -> None:
        """Let somebody else have it, at once."""
        ...

    def keep(
        self, publication: Publication, finals: Sequence[Outgoing]
    ) -> asyncio.Future[Sequence[Outgoing]] | None:
        """Remember an answer for whoever gets the same request again.

        The future is done when that is so, and has what is to be said: somebody else may have
        answered meanwhile. It never fails. None where there is nothing to wait for.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Hear that a request is not wanted any more; it may wait where we can't see it."""
        ...

    def follow(self, routes: Sequence[Route]) -> None:
        """Bring the presses of these routes from now on, and of no others."""
        ...

    def forget(self, session: str) -> None:
        """Hear that a conversation is to be forgotten."""
        ...
