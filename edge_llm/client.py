"""RemoteEngine: a node on the other side of a broker, as an Engine."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from edge_llm.engine.interface import EngineState
from edge_llm.errors import BrokerError, EdgeLLMError, NodeOfflineError
from edge_llm.mqtt import MqttConnection, Publication, Subscription
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    DeltaPayload,
    Done,
    ErrorBody,
    Event,
    ModelInfo,
    MqttRequest,
    NodeInfo,
    Response,
    Started,
    Timing,
    Topics,
    Usage,
)
from edge_llm.settings import MqttSettings

__all__ = ["RemoteEngine"]

STATUS_TIMEOUT_S = 2.0  # for the retained status of a node that is there


class RemoteEngine:
    """Generates at whatever node answers on a broker.

    Args:
        settings: the broker.
        timeout_s: longest silence between two messages of a reply, and to connect.
    """

    def __init__(self, settings: MqttSettings, *, timeout_s: float = 120.0) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._client = f"c{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)
        self._topics = Topics(settings.prefix, "+")
        self._streams: dict[str, asyncio.Queue[Publication]] = {}
        self._nodes: dict[str, NodeInfo] = {}
        self._online: set[str] = set()
        self._someone_online = asyncio.Event()
        self._mqtt = MqttConnection(
            settings,
            f"edge-llm-{self._client}",
            [
                Subscription(self._topics.response(self._client, "#"), 1),
                Subscription(self._topics.status, 1, retained=True),
                Subscription(self._topics.info, 1, retained=True),
            ],
            clean=True,
        )

    async def __aenter__(self) -> Self:
        await self._mqtt.__aenter__()
        self._receiver = asyncio.create_task(self._receive(), name="remote.receiver")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._receiver.cancel()
        with suppress(asyncio.CancelledError):
            await self._receiver
        await self._mqtt.__aexit__(exc_type, exc, traceback)

    @property
    def state(self) -> EngineState:
        """Ready while a node is online."""
        return "ready" if self._online else "restarting"

    @property
    def activity(self) -> str:
        """Whether a node is there; what it does, its own topic says."""
        return "idle" if self._online else "offline"

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The models of all nodes that are online."""
        return tuple(
            model
            for node, info in self._nodes.items()
            if node in self._online
            for model in info.models
        )

    async def ready(self) -> tuple[ModelInfo, ...]:
        """Wait for a node.

        Raises:
            BrokerError: the broker does not answer.
            NodeOfflineError: it does, but no node is there.
        """
        try:
            await asyncio.wait_for(self._mqtt.wait_until_connected(), self._timeout_s)
        except TimeoutError as exc:
            raise BrokerError(f"the broker at {self._broker} does not answer") from exc
        try:
            await asyncio.wait_for(self._someone_online.wait(), STATUS_TIMEOUT_S)
        except TimeoutError as exc:
            raise NodeOfflineError(
                f"no node is online at the broker {self._broker}; start one with 'edge-llm serve'"
            ) from exc
        return self.models

    async def generate(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Generate at a node; see ``Engine.generate``.

        Raises:
            NodeOfflineError: no node is there, or it fell silent.
        """
        await self.ready()
        request_id = f"{self._client}/{next(self._numbers)}"
        stream = self._streams[request_id] = asyncio.Queue()
        # By JSON, which leaves out what was not said: those are the node's own defaults.
        said = request.model_dump(exclude_none=True, exclude={"stream", "format"}, mode="json")
        wire = MqttRequest.model_validate({**said, "stream": "token"}, strict=False)
        payload = wire.model_dump_json(exclude_none=True, exclude_defaults=True)
        self._mqtt.publish(
            self._topics.request(request_id), payload, 1, content_type="application/json"
        )
        ended = False
        try:
            yield Started()
            async with aclosing(self._events(stream)) as events:
                async for event in events:
                    ended = isinstance(event, Done)
                    yield event
        except EdgeLLMError:
            ended = True
            raise
        finally:
            del self._streams[request_id]
            if not ended:
                self._mqtt.publish(self._topics.cancel(request_id), b"")

    async def _events(self, stream: asyncio.Queue[Publication]) -> AsyncGenerator[Event]:
        said = ""
        while True:
            try:
                publication = await asyncio.wait_for(stream.get(), self._timeout_s)
            except TimeoutError as exc:
                raise NodeOfflineError(
                    f"the node has said nothing for {self._timeout_s} s"
                ) from exc
            if publication.topic.endswith("/delta"):
                text = DeltaPayload.model_validate_json(publication.payload).text
                said += text
                yield Delta(text=text)
            elif publication.topic.endswith("/error"):
                raise ErrorBody.model_validate_json(publication.payload).to_error()
            else:
                response = Response.model_validate_json(publication.payload)
                if response.error:
                    raise response.error.to_error()
                # Deltas travel at QoS 0 and may get lost; the final text is whole.
                if response.text.startswith(said) and response.text != said:
                    yield Delta(text=response.text.removeprefix(said))
                yield Done(
                    finish_reason=response.finish_reason or "stop",
                    usage=response.usage or Usage(),
                    timing=response.timing or Timing(),
                )
                return

    async def _receive(self) -> None:
        async for publication in self._mqtt.messages():
            self._mqtt.ack(publication)
            levels = publication.topic.removeprefix(f"{self._settings.prefix}/").split("/")
            if levels[0] == "response":
                if stream := self._streams.get("/".join(levels[1:3])):
                    stream.put_nowait(publication)
            else:
                self._note_node(levels[1], levels[2], publication.payload)

    def _note_node(self, node: str, kind: str, payload: bytes) -> None:
        if kind == "info":
            with suppress(ValidationError):  # of another version, or cleared
                self._nodes[node] = NodeInfo.model_validate_json(payload)
        elif payload == b"online":
            self._online.add(node)
            self._someone_online.set()
        else:
            self._online.discard(node)
            if not self._online:
                self._someone_online.clear()

    @property
    def _broker(self) -> str:
        return f"{self._settings.host}:{self._settings.port}"
