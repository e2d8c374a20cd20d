"""A RemoteEngine and what it talks to: a node that serves, or one that does what the test says."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

from edge_llm import Delta, EdgeLLMError, MqttRequest, RemoteEngine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.protocol import ErrorBody, Event
from edge_llm.settings import QueueSettings
from tests.brokers import Broker
from tests.clients import RawClient, eventually
from tests.prompted_engine import PromptedEngine
from tests.stage import serving

LONG_S = 60.0  # nothing here should ever wait for it


@asynccontextmanager
async def remote(
    broker: Broker, engine: PromptedEngine, **options: Any
) -> AsyncGenerator[RemoteEngine]:
    queue = QueuedEngine(engine, QueueSettings(limit=2))
    async with (
        serving(broker.settings(), queue),
        RemoteEngine(broker.settings(), **{"silence_timeout_s": 5, **options}) as remote,
    ):
        await remote.ready()
        yield remote


async def collect(
    remote: RemoteEngine, prompt: str = "say Good evening to you", **fields: Any
) -> list[Event]:
    request = MqttRequest(prompt=prompt, **fields)
    async with aclosing(remote.generate(request)) as events:
        return [event async for event in events]


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Delta)]


class FakeNode:
    """A node that does what the test says, and has a name of its own."""

    def __init__(self, client: RawClient, name: str = "x") -> None:
        self.client, self.name = client, name

    def say(self, what: str, payload: str | dict[str, Any]) -> None:
        text = payload if isinstance(payload, str) else json.dumps(payload)
        self.client.publish(f"llm/node/{self.name}/{what}", text, retain=True)

    @property
    def requests(self) -> list[paho.MQTTMessage]:
        return [m for m in tuple(self.client.messages) if "/request/" in m.topic]

    async def request(self, number: int = 0) -> tuple[str, dict[str, Any]]:
        """Wait for a request; return the topic of its reply, and what it says."""
        await eventually(lambda: len(self.requests) > number)
        message = self.requests[number]
        return message.topic.replace("/request/", "/response/"), json.loads(message.payload)

    def delta(self, topic: str, seq: int, text: str) -> None:
        self.client.publish(f"{topic}/delta", json.dumps({"seq": seq, "text": text}), 0)

    def end(self, topic: str, **fields: Any) -> None:
        body = {"id": "x", "node": self.name, "finish_reason": "stop", **fields}
        self.client.publish(topic, json.dumps(body))

    def fail(self, topic: str, error: EdgeLLMError) -> None:
        body = ErrorBody.from_error(error).model_dump(exclude_none=True)
        self.end(topic, finish_reason=None, error=body)

    @property
    def num_cancels(self) -> int:
        return sum("/cancel/" in message.topic for message in self.client.messages)


@asynccontextmanager
async def faking(
    broker: Broker, name: str = "x", status: str = "online"
) -> AsyncGenerator[FakeNode]:
    async with broker.client() as client:
        node = FakeNode(client, name)
        node.say("status", status)
        await client.subscribe("llm/request/#", "llm/cancel/#")
        yield node


@contextmanager
def paced_node(port: int, directory: Path, **paced: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a real node, ``pi5``, that says a fixed text quickly; it may be killed."""
    environment = {
        **os.environ,
        "EDGE_LLM_NODE": "pi5",
        "EDGE_LLM_MQTT__PORT": str(port),
        "EDGE_LLM_STORE__DIRECTORY": str(directory / "store"),
        "EDGE_LLM_ENGINE__PACED__TTFT_S": "0.1",
        **{f"EDGE_LLM_ENGINE__PACED__{name.upper()}": value for name, value in paced.items()},
    }
    serve = [sys.executable, "-m", "edge_llm", "serve", "--paced", "--no-http"]
    with (directory / "serve.log").open("a") as log:
        process = subprocess.Popen(serve, env=environment, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)
