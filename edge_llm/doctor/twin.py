"""Another node of the same name.

Both have the same topics and the same client id, and the broker throws out the one whenever the
other comes.
"""

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from pydantic import ValidationError

from edge_llm.doctor.broker import connect, is_met
from edge_llm.doctor.case import Case
from edge_llm.doctor.finding import Finding, fail, ok, skip, warn
from edge_llm.doctor.processes import find_nodes
from edge_llm.doctor.threads import in_thread
from edge_llm.protocol import NodeHealth
from edge_llm.topics import Topics

__all__ = ["examine_twin"]

NAME = "broker.name"
LISTEN_S = 1.5
"""Two nodes of one name that run take turns within seconds."""
FIRST_S = 0.5  # for what is retained
SAME_START_S = 60.0
"""How far the start of a process and that of its node may be apart; health is told each 30 s."""


@dataclass(slots=True)
class _Heard:
    """What is said on a node's topics within a moment."""

    status: list[str] = field(default_factory=list)
    lives: set[str] = field(default_factory=set)
    started_ago_s: float | None = None

    @property
    def listen_s(self) -> float:
        """How long to listen: a node that is there may be two."""
        return LISTEN_S if "online" in self.status else FIRST_S

    @property
    def is_taking_turns(self) -> bool:
        return len(self.lives) > 1 or len(self.status) > 2


async def examine_twin(case: Case) -> AsyncGenerator[Finding]:
    """Whether somebody else has the node's name."""
    meeting = await is_met(case)
    if meeting is None:
        yield skip(NAME, "no connection to the broker")
        return
    topics = Topics(case.settings.mqtt.prefix, case.settings.node)
    heard = _Heard()
    async with connect(meeting) as probe:
        for topic in (topics.status, topics.health):
            await probe.subscribe(topic, 0)
        began = time.monotonic()
        while (left_s := began + heard.listen_s - time.monotonic()) > 0:
            if message := await probe.receive(left_s):
                _note(heard, topics, message.topic, bytes(message.payload))
    nodes = await in_thread(lambda: find_nodes(case.machine))
    yield _judge(topics.node, heard, [node.age_s for node in nodes])


def _note(heard: _Heard, topics: Topics, topic: str, payload: bytes) -> None:
    if topic == topics.status:
        heard.status.append(payload.decode(errors="replace"))
        return
    try:
        health = NodeHealth.model_validate_json(payload)
    except ValidationError:  # of another version
        return
    heard.lives.add(health.boot_id)
    heard.started_ago_s = health.uptime_s


def _judge(node: str, heard: _Heard, ages_s: list[float]) -> Finding:
    cure = f'give one of them another name: node = "{node}-2" in its settings'
    if heard.is_taking_turns:
        return fail(NAME, f"two nodes are called {node!r}, and throw each other out", cure)
    if heard.status[-1:] != ["online"]:
        return ok(NAME, f"no node called {node!r} is online")
    if not ages_s:
        what = f"a node called {node!r} is online, and it does not run on this machine"
        return warn(NAME, what, f"{cure}, before this one is started")
    if heard.started_ago_s is not None and all(
        abs(age_s - heard.started_ago_s) > SAME_START_S for age_s in ages_s
    ):
        what = f"the node called {node!r} that is online was not started when the one here was"
        return warn(NAME, what, cure)
    return ok(NAME, f"{node!r} is online, and runs here")
