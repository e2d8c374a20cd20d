"""Which of two doors a request belongs to that came in by both.

Its copies have nothing in common but what they say and, nearly, when they came in. So a door claims
all that says the same for a while, and what the other one finds claimed it leaves.
"""

import json
from typing import Any, NamedTuple

from edge_llm.fleet.first import put_first
from edge_llm.fleet.item import Item
from edge_llm.fleet.names import FleetNames
from edge_llm.store import make_key

__all__ = ["Claims"]


class _Claim(NamedTuple):
    door: str
    arrived_at: float
    seq: int
    """Of the entry that says it; 0 if there is none."""


NOBODYS = _Claim("", 0.0, 0)


class Claims:
    """What doors have claimed, for all nodes to see.

    Args:
        client: of NATS.
        names: of the fleet.
        lasts_s: so long after a request came in, and before, others that say the same are taken for
            it; servers' clocks differ by less.
    """

    def __init__(self, client: Any, names: FleetNames, lasts_s: float) -> None:
        self._client, self._bucket, self._lasts_s = client, names.answers, lasts_s

    async def has(self, door: str, item: Item) -> bool:
        """Tell whether a request is one that a door has claimed.

        Raises:
            nats.errors.Error: nobody could say.
        """
        claim = await self._find(self._subject(item))
        return self._is_for(claim, item) and claim.door == door

    async def claim(self, door: str, item: Item) -> bool:
        """Claim a request for a door; False if the other one has it.

        Raises:
            nats.errors.Error: nobody could say.
        """
        subject = self._subject(item)
        data = json.dumps([door, item.arrived_at]).encode()
        while True:
            claim = await self._find(subject)
            if self._is_for(claim, item):
                return claim.door == door
            if await put_first(self._client.jetstream(), subject, data, after=claim.seq):
                return True

    async def _find(self, subject: str) -> _Claim:
        from nats.js.errors import NotFoundError

        try:
            message = await self._client.jetstream().get_last_msg(f"KV_{self._bucket}", subject)
        except NotFoundError:
            return NOBODYS
        door, arrived_at = json.loads(message.data or b"")
        return _Claim(door, arrived_at, message.seq or 0)

    def _is_for(self, claim: _Claim, item: Item) -> bool:
        return abs(claim.arrived_at - item.arrived_at) < self._lasts_s

    def _subject(self, item: Item) -> str:
        what = make_key(item.publication.topic, item.publication.payload)
        return f"$KV.{self._bucket}.door-{what.hex()}"
