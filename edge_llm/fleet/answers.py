"""Finished answers, for all nodes: a request that is delivered twice is answered with one text."""

from collections.abc import Sequence
from typing import Any

import structlog

from edge_llm.fleet.names import FleetNames
from edge_llm.outgoing import Outgoing
from edge_llm.store import dump_messages, load_messages

__all__ = ["FleetAnswers"]

log = structlog.get_logger()


class FleetAnswers:
    """The bucket of finished answers.

    Args:
        client: of NATS.
        names: of the fleet.
    """

    def __init__(self, client: Any, names: FleetNames) -> None:
        self._js, self._bucket = client.jetstream(), names.answers

    async def find(self, key: str) -> Sequence[Outgoing] | None:
        """Return the final messages of a request, if it has some.

        Raises:
            nats.errors.Error: nobody could say.
        """
        from nats.js.errors import NotFoundError

        try:
            message = await self._js.get_last_msg(f"KV_{self._bucket}", self._subject(key))
        except NotFoundError:
            return None
        return load_messages(message.data or b"")

    async def keep(self, key: str, finals: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """Remember the final messages of a request; return what is to be said.

        That is what another node has remembered before, where our lease was lost meanwhile.

        Raises:
            nats.errors.Error: it could not be written.
        """
        from nats.js.errors import BadRequestError

        first = {"Nats-Expected-Last-Subject-Sequence": "0"}
        try:
            await self._js.publish(self._subject(key), dump_messages(finals), headers=first)
        except BadRequestError:
            return await self.find(key) or finals
        return finals

    def _subject(self, key: str) -> str:
        return f"$KV.{self._bucket}.{key}"
