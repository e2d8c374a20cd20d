"""RemoteEngine: a node on the other side of a broker, as an Engine."""

import asyncio
import itertools
import math
import random
import secrets
from collections import Counter, deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Self

from pydantic import ValidationError

from edge_llm.client.asked import Asked, News, put_on_wire
from edge_llm.client.log import set_up_log_if_none
from edge_llm.client.nodes import Nodes
from edge_llm.client.receiving import Receiving
from edge_llm.engine.interface import EngineState
from edge_llm.errors import (
    BrokerError,
    ConfigurationError,
    ExpiredError,
    InvalidRequestError,
    NodeOfflineError,
    QueueFullError,
)
from edge_llm.mqtt import MqttConnection, Publication, Subscription
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Event,
    Message,
    ModelInfo,
    MqttRequest,
    Queued,
    Started,
    translate,
)
from edge_llm.settings import MqttSettings
from edge_llm.topics import Topics

__all__ = ["RemoteEngine"]

STATES: dict[str, EngineState] = {"recovering": "recovering", "failed": "failed"}
"""By what a node does; it is ready otherwise, also where requests wait."""
RETRY_AFTER_S = 5.0  # if the node does not say
JITTER = 0.25  # of the wait, on top: those who were refused together must not come back together
MAX_ABANDONED = 256  # requests to cancel at nodes that are away


class RemoteEngine(Receiving):
    """Generates at a node behind a broker; an async context manager, and an ``Engine``.

    Each call of ``generate`` or ``ask`` is one request, and any number of them may be out at once.
    A request goes to one node, so that where several listen only one answers.

    Args:
        settings: the broker; this machine's if not given.
        node: the only node to ask. Without it each request goes to one that is there, has the
            model, and has the fewest requests of ours.
        connect_timeout_s: how long the broker may take to answer.
        silence_timeout_s: longest silence between two messages of a reply.
        total_timeout_s: how long a whole answer may take, waiting and retries included.
        retries: how often a request is sent again that was refused with ``queue_full``.
        is_fleet: the nodes share their work, on NATS: a request is for whichever has room, and one
            that goes offline is replaced by another. Without ``node`` only.
        offline_grace_s: how long to wait for a node that goes offline to come back, for one that is
            being restarted: its broker gives it the request again. At 0 it fails at once.

    Raises:
        ConfigurationError: no node can have this name.
    """

    def __init__(
        self,
        settings: MqttSettings | None = None,
        *,
        node: str | None = None,
        connect_timeout_s: float = 10.0,
        silence_timeout_s: float = 120.0,
        total_timeout_s: float | None = None,
        retries: int = 3,
        is_fleet: bool = False,
        offline_grace_s: float = 0.0,
    ) -> None:
        if node is not None and (not node or set(node) & set("/+#")):
            raise ConfigurationError(f"a node can't be called {node!r}", param="node")
        self._settings = settings or MqttSettings()
        self._node = node
        self._connect_timeout_s = connect_timeout_s
        self._silence_timeout_s = silence_timeout_s
        self._total_timeout_s = math.inf if total_timeout_s is None else total_timeout_s
        self._retries = retries
        self._is_fleet = is_fleet and node is None
        self._grace_s = offline_grace_s
        self._client = f"c{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)
        self._topics = Topics(self._settings.prefix, node or "+")
        self._nodes = Nodes(node)
        self._asked: dict[str, Asked] = {}
        self._abandoned: deque[Asked] = deque(maxlen=MAX_ABANDONED)
        self._mqtt = MqttConnection(
            self._settings,
            f"edge-llm-{self._client}",
            [
                Subscription(self._topics.response(self._client, "#"), 1),
                # The status last: whoever is online by then is known.
                Subscription(self._topics.info, 1, retained=True),
                Subscription(self._topics.activity, 1, retained=True),
                Subscription(self._topics.status, 1, retained=True),
            ],
            clean=True,
            on_connected=self._note_connection,
        )

    async def __aenter__(self) -> Self:
        set_up_log_if_none()
        return await super().__aenter__()

    @property
    def is_online(self) -> bool:
        """Whether a node that may be asked is there."""
        return self._mqtt.is_connected and bool(self._nodes.online)

    @property
    def state(self) -> EngineState:
        """What a node is; offline while none is there."""
        if not self.is_online:
            return "offline"
        if not self.models or self.activity.startswith("loading"):
            return "loading"
        return STATES.get(self.activity, "ready")

    @property
    def activity(self) -> str:
        """What the node does, the one that does the least of several; ``offline`` without one."""
        if not self.is_online:
            return "offline"
        return self._nodes.activity

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The models of the nodes that are online, each once."""
        nodes = self._nodes.online if self._mqtt.is_connected else ()
        return tuple({model.id: model for node in nodes for model in node.models}.values())

    async def ready(self) -> tuple[ModelInfo, ...]:
        """Wait for a node, and return its models; none while it still loads the first one.

        Raises:
            BrokerError: the broker does not answer.
            NodeOfflineError: it does, but no node is there.
        """
        await self._find_node(None, self._node, math.inf)
        return self.models

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Do nothing: the node prepares for its own presets. See ``Engine.prepare``."""

    async def ask(self, prompt: str | None = None, **fields: Any) -> str:
        """Return a whole answer, as one string.

        Args:
            prompt: a single user turn; a preset may have one of its own.
            fields: of ``MqttRequest``: ``preset="oracle"``, ``session="visitor7"``,
                ``max_tokens=60``, ``time_budget_s=4``.

        Raises:
            InvalidRequestError: a field that there is not, or a wrong value.
            EdgeLLMError: as for ``generate``.
        """
        said = fields if prompt is None else {**fields, "prompt": prompt}
        try:
            request = MqttRequest.model_validate(said, strict=False)
        except ValidationError as exc:
            raise translate(exc) from exc
        async with aclosing(self.generate(request)) as events:
            return "".join([event.text async for event in events if isinstance(event, Delta)])

    async def generate(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Generate at a node; see ``Engine.generate``.

        Args:
            request: an ``MqttRequest`` where preset, session, or how to stream matter. Its
                ``events``, ``format`` and ``parts`` are ours: the reply is read here.

        Raises:
            BrokerError: the broker does not answer.
            NodeOfflineError: no node is there, it went, or it fell silent; see the arguments.
            ExpiredError: the total timeout, or what the node says with this code.
            EngineFailedError: a node was restarted and said something else than before.
            EdgeLLMError: whatever else the node says.
        """
        deadline = asyncio.get_running_loop().time() + self._total_timeout_s
        silent, has_started = True, False
        for attempt in itertools.count():
            try:
                async with aclosing(self._attempt(request, deadline)) as events:
                    async for event in events:
                        silent &= isinstance(event, Queued | Started)
                        if not (isinstance(event, Started) and has_started):
                            yield event
                        has_started |= isinstance(event, Started)
                    return
            except QueueFullError as exc:
                wait_s = _wait_s(exc)
                time_left_s = deadline - asyncio.get_running_loop().time()
                if not silent or attempt >= self._retries or wait_s >= time_left_s:
                    raise
            await asyncio.sleep(wait_s)

    async def _attempt(self, request: ChatRequest, deadline: float) -> AsyncGenerator[Event]:
        wanted = self._node_of(request)
        node: str | None = await self._find_node(request.model, wanted, deadline)
        if self._is_fleet:
            node = wanted
        asked = Asked(str(next(self._numbers)), node, put_on_wire(request, node), deadline)
        self._asked[asked.id] = asked
        try:
            self._send(asked)
            while not asked.reading.is_over:
                publication = await self._next(asked)
                for event in asked.reading.read(self._level(publication), publication.payload):
                    yield event
        finally:
            del self._asked[asked.id]
            # What was sent again may have begun anew, just when the answer came after all.
            if not asked.reading.is_over or asked.was_sent_again:
                self._give_up(asked)

    def _node_of(self, request: ChatRequest) -> str | None:
        wanted = request.node if isinstance(request, MqttRequest) else None
        if wanted and self._node and wanted != self._node:
            raise InvalidRequestError(f"this engine is for node {self._node!r} only", param="node")
        return wanted or self._node

    async def _find_node(self, model: str | None, name: str | None, deadline: float) -> str:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        try:
            async with asyncio.timeout_at(min(begin + self._connect_timeout_s, deadline)):
                await self._mqtt.wait_until_connected()
        except TimeoutError as exc:
            raise BrokerError(f"the broker at {self._broker} does not answer") from exc
        in_hand = Counter(asked.node for asked in self._asked.values() if asked.node)
        while not (node := self._nodes.choose(model, in_hand, name)):
            until = max(self._nodes.known_at(name), begin + self._grace_s)
            try:
                async with asyncio.timeout_at(min(until, deadline)):
                    await self._nodes.change()
            except TimeoutError as exc:
                raise NodeOfflineError(
                    f"node {name!r} is not online at the broker {self._broker}"
                    if name
                    else f"no node is online at the broker {self._broker}; "
                    "start one with 'edge-llm serve'"
                ) from exc
        return node

    def _send(self, asked: Asked) -> None:
        left_s = asked.deadline - asyncio.get_running_loop().time()
        asked.confirmed = self._mqtt.publish(
            self._topics.request(f"{self._client}/{asked.id}"),
            asked.payload,
            1,
            content_type="application/json",
            expiry_s=None if left_s == math.inf else max(1, math.ceil(left_s)),
        )

    def _send_again(self, asked: Asked) -> None:
        """Make sure that the node has a request, and that we hear its answer.

        A node that has it in hand takes it for a copy, one that has answered it says the same again
        if it can, and one that lost it begins anew.
        """
        if asked.confirmed.done():  # else it is still on its way
            asked.was_sent_again = True
            self._send(asked)

    def _ask_anew(self, asked: Asked) -> None:
        """Take a request back, of whose answer we may have missed something, and ask another.

        In a fleet the same request sent twice is given to two nodes, and their answers would mix.
        """
        if not asked.confirmed.done():  # it is still on its way
            return
        self._mqtt.publish(self._topics.cancel(f"{self._client}/{asked.id}"), b"", 1)
        del self._asked[asked.id]
        asked.id, asked.inbox = str(next(self._numbers)), asyncio.Queue()
        self._asked[asked.id] = asked
        asked.reading.expect_anew()
        self._send(asked)

    async def _next(self, asked: Asked) -> Publication:
        """Wait for the next message of a reply, through whatever else may happen meanwhile."""
        while True:
            loop = asyncio.get_running_loop()
            silent_until = loop.time() + self._silence_timeout_s
            try:
                async with asyncio.timeout_at(min(silent_until, asked.deadline, asked.gone_until)):
                    news = await asked.inbox.get()
            except TimeoutError as exc:
                raise self._why_silent(asked) from exc
            match news:
                case Publication():
                    return news
                case News.NODE_OFFLINE:
                    asked.gone_until = min(asked.gone_until, loop.time() + self._grace_s)
                    if not self._grace_s:
                        raise self._why_silent(asked)
                case News.NODE_ONLINE:
                    asked.gone_until = math.inf
                    asked.reading.expect_anew()
                    self._send_again(asked)
                case News.RECONNECTED if self._is_fleet:
                    self._ask_anew(asked)
                case News.RECONNECTED:
                    self._send_again(asked)

    def _why_silent(self, asked: Asked) -> BrokerError | ExpiredError | NodeOfflineError:
        now = asyncio.get_running_loop().time()
        if now >= asked.deadline:
            return ExpiredError(f"there was no whole answer within {self._total_timeout_s:g} s")
        if now >= asked.gone_until:
            return NodeOfflineError(f"node {asked.node!r} went offline before it had answered")
        if not self._mqtt.is_connected:
            return BrokerError(f"the connection to the broker at {self._broker} is lost")
        return NodeOfflineError(f"the node has said nothing for {self._silence_timeout_s:g} s")

    def _give_up(self, asked: Asked) -> None:
        self._mqtt.publish(self._topics.cancel(f"{self._client}/{asked.id}"), b"")
        if asked.node is not None and not self._nodes.is_online(asked.node):
            # Its broker will give it the request when it comes back, and nobody waits any more.
            self._abandoned.append(asked)

    async def _receive(self) -> None:
        nodes = f"{self._settings.prefix}/node/"
        async with aclosing(self._mqtt.messages()) as messages:
            async for publication in messages:
                self._mqtt.ack(publication)
                if publication.topic.startswith(nodes):
                    name, _, kind = publication.topic.removeprefix(nodes).partition("/")
                    is_old = publication.retain
                    if self._nodes.feed(name, kind, publication.payload, is_old=is_old):
                        self._note_node(name)
                elif asked := self._asked.get(self._below(publication).partition("/")[0]):
                    asked.inbox.put_nowait(publication)

    def _below(self, publication: Publication) -> str:
        return publication.topic.removeprefix(self._topics.response(self._client) + "/")

    def _level(self, publication: Publication) -> str:
        return self._below(publication).partition("/")[2]

    def _note_connection(self) -> None:
        self._nodes.begin()
        if self._mqtt.connection > 1:  # and what was said meanwhile is lost
            self._tell(News.RECONNECTED, *self._asked.values())

    def _note_node(self, name: str) -> None:
        is_online = self._nodes.is_online(name)
        news = News.NODE_ONLINE if is_online else News.NODE_OFFLINE
        self._tell(news, *(asked for asked in self._asked.values() if asked.node == name))
        if is_online:
            for asked in [asked for asked in self._abandoned if asked.node == name]:
                self._abandoned.remove(asked)
                self._mqtt.publish(self._topics.cancel(f"{self._client}/{asked.id}"), b"")

    @staticmethod
    def _tell(news: News, *all_asked: Asked) -> None:
        for asked in all_asked:
            asked.inbox.put_nowait(news)

    @property
    def _broker(self) -> str:
        return f"{self._settings.host}:{self._settings.port}"


def _wait_s(error: QueueFullError) -> float:
    wait_s = RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
    return wait_s * random.uniform(1, 1 + JITTER)
