"""A request that is out: how it is put on the wire, and what has come of it."""

import asyncio
import enum
import json
import math
import random
from dataclasses import dataclass, field

from edge_llm.client.reading import Reading
from edge_llm.mqtt import Publication
from edge_llm.protocol import ChatRequest

__all__ = ["Asked", "News", "put_on_wire"]

SEED_BITS = 31  # for engines that take no more


class News(enum.Enum):
    """What happens beside the messages of a reply, and stands in line with them."""

    NODE_OFFLINE = enum.auto()
    NODE_ONLINE = enum.auto()
    RECONNECTED = enum.auto()


@dataclass(slots=True, eq=False)
class Asked:
    """A request that is out.

    Attributes:
        node: who is to answer; None for whichever node of a fleet has room.
        deadline: when the answer must be whole, by the clock of the loop.
        confirmed: done when the broker has the request.
        gone_until: the node is away, and is given up then.
    """

    id: str
    node: str | None
    payload: str
    deadline: float
    confirmed: asyncio.Future[None] = field(init=False)
    inbox: asyncio.Queue[Publication | News] = field(default_factory=asyncio.Queue)
    reading: Reading = field(default_factory=Reading)
    gone_until: float = math.inf
    was_sent_again: bool = False


def put_on_wire(request: ChatRequest, node: str | None) -> str:
    """Make the payload of a request to one node, or to any of a fleet."""
    # What was not said is left out: that is for the node's preset, or its own defaults.
    said = request.model_dump(
        mode="json", exclude_unset=True, exclude_none=True, exclude={"parts", "stream"}
    )
    stream = getattr(request, "stream", False) or "token"
    ours = {"stream": stream, "events": True, "format": "json"}
    if node is not None:
        return json.dumps({**said, **ours, "node": node}, ensure_ascii=False)
    # Another node that begins anew says the same then, and goes on where the first one ended.
    seed = random.getrandbits(SEED_BITS)
    return json.dumps({"seed": seed, **said, **ours}, ensure_ascii=False)
