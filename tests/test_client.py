"""A node behind a broker, as an Engine, and ``edge-llm ask``."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import pytest

from edge_llm import client as client_module
from edge_llm.client import RemoteEngine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.errors import (
    BrokerError,
    ContextOverflowError,
    EdgeLLMError,
    EngineFailedError,
    NodeOfflineError,
    QueueFullError,
    UnknownModelError,
)
from edge_llm.protocol import ChatRequest, Delta, Done, Event, Message, Started
from edge_llm.settings import MqttSettings, QueueSettings
from tests.brokers import Broker, Mosquitto
from tests.clients import RawClient, eventually
from tests.programs import HOST, free_port
from tests.prompted_engine import PromptedEngine
from tests.stage import serving


@asynccontextmanager
async def remote(
    broker: Broker, engine: PromptedEngine, timeout_s: float = 5
) -> AsyncGenerator[RemoteEngine]:
    queue = QueuedEngine(engine, QueueSettings(limit=2))
    async with (
        serving(broker.settings(), queue),
        RemoteEngine(broker.settings(), timeout_s=timeout_s) as remote,
    ):
        await remote.ready()
        yield remote


async def collect(
    remote: RemoteEngine, prompt: str = "say Good evening to you", model: str | None = None
) -> list[Event]:
    request = ChatRequest(prompt=prompt, model=model)
    async with aclosing(remote.generate(request)) as events:
        return [event async for event in events]


async def test_it_streams(broker: Broker) -> None:
    async with remote(broker, PromptedEngine()) as engine:
        started, *deltas, done = await collect(engine)
    assert started == Started()
    assert [d.text for d in deltas if isinstance(d, Delta)] == ["Good", " evening", " to", " you"]
    assert isinstance(done, Done)
    assert (done.finish_reason, done.usage.completion_tokens) == ("stop", 4)
    assert done.timing.total_s >= 0


async def test_the_request_arrives_as_it_was_made(mosquitto: Mosquitto) -> None:
    request = ChatRequest(
        messages=(Message(role="system", content="Be brief."), Message(role="user", content="Hi")),
        max_tokens=7,
        temperature=0.5,
        stop=("\n",),
        seed=3,
        logit_bias={5: -1.0},
        priority=9,
        ttl_s=30.0,
    )
    broker = mosquitto.broker()
    async with broker.client() as spy, remote(broker, PromptedEngine()) as engine:
        await spy.subscribe("llm/request/#")
        async with aclosing(engine.generate(request)) as events:
            assert len([event async for event in events]) == 3
        await eventually(lambda: spy.messages)
    said = json.loads(spy.messages[0].payload)
    assert said.pop("stream") == "token"
    assert ChatRequest.model_validate_json(json.dumps(said)) == request


async def test_it_knows_the_models_and_who_is_online(broker: Broker) -> None:
    async with remote(broker, PromptedEngine()) as engine:
        await eventually(lambda: engine.models)
        assert [model.id for model in engine.models] == ["tiny"]
        assert engine.state == "ready"


async def test_requests_run_side_by_side(broker: Broker) -> None:
    async with remote(broker, PromptedEngine()) as engine:
        replies = await asyncio.gather(*(collect(engine, f"say {n} yes") for n in range(3)))
    for number, (_, *deltas, _) in enumerate(replies):
        assert [d.text for d in deltas if isinstance(d, Delta)] == [str(number), " yes"]
    assert not engine._streams


@pytest.mark.parametrize(
    "error",
    [
        QueueFullError("too many", retry_after_s=3.5),
        ContextOverflowError("600 tokens do not fit into 512", param="messages"),
        EngineFailedError("died three times"),
        EdgeLLMError("a bug"),
    ],
    ids=lambda error: error.code,
)
async def test_errors_are_the_same_on_both_sides(mosquitto: Mosquitto, error: EdgeLLMError) -> None:
    async with remote(mosquitto.broker(), PromptedEngine(error=error)) as engine:
        with pytest.raises(EdgeLLMError) as caught:
            await collect(engine)
        assert type(caught.value) is type(error)
        assert vars(caught.value) == vars(error)
        assert not engine._streams


async def test_an_unknown_model_is_an_error_of_its_own(mosquitto: Mosquitto) -> None:
    async with remote(mosquitto.broker(), PromptedEngine()) as engine:
        with pytest.raises(UnknownModelError, match="gpt-4"):
            await collect(engine, model="gpt-4")


async def test_deltas_that_got_lost_are_made_up_for(mosquitto: Mosquitto) -> None:
    """They travel at QoS 0; the node here sends the first and the final message only."""
    broker = mosquitto.broker()
    async with broker.client() as node, RemoteEngine(broker.settings(), timeout_s=5) as engine:
        node.publish("llm/node/x/status", "online", retain=True)
        await node.subscribe("llm/request/#")
        reply = asyncio.create_task(collect(engine))
        await eventually(lambda: node.messages)
        topic = node.messages[0].topic.replace("request", "response")
        node.publish(f"{topic}/delta", '{"seq": 0, "text": "Good"}', 0)
        final = {"id": "x", "node": "x", "text": "Good evening", "finish_reason": "stop"}
        node.publish(topic, json.dumps(final))
        _, *deltas, _ = await reply
    assert [d.text for d in deltas if isinstance(d, Delta)] == ["Good", " evening"]


async def test_closing_it_cancels_at_the_node(broker: Broker) -> None:
    node = PromptedEngine()
    async with remote(broker, node) as engine:
        async with aclosing(engine.generate(ChatRequest(prompt="hold the line"))) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
        await eventually(lambda: not node.num_running)
        assert not node.release.is_set()
        assert not engine._streams


async def test_cancelling_its_task_cancels_at_the_node(broker: Broker) -> None:
    node = PromptedEngine()
    async with remote(broker, node) as engine:
        task = asyncio.create_task(collect(engine, "hold the line"))
        await eventually(lambda: node.num_running)
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        assert task.cancelled()
        await eventually(lambda: not node.num_running)


async def test_without_a_node_it_says_so_quickly(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "STATUS_TIMEOUT_S", 0.2)
    async with RemoteEngine(broker.settings(), timeout_s=60) as engine:
        begin = time.monotonic()
        with pytest.raises(NodeOfflineError, match="edge-llm serve"):
            await collect(engine)
        assert time.monotonic() - begin < 2
        assert engine.state == "restarting"


async def test_a_node_that_was_stopped_is_not_there(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "STATUS_TIMEOUT_S", 0.2)
    broker = mosquitto.broker()
    async with remote(broker, PromptedEngine()):
        pass
    async with RemoteEngine(broker.settings()) as engine:
        with pytest.raises(NodeOfflineError):
            await engine.ready()


async def test_a_node_that_falls_silent_is_given_up(mosquitto: Mosquitto) -> None:
    node = PromptedEngine()
    async with remote(mosquitto.broker(), node, timeout_s=0.3) as engine:
        with pytest.raises(NodeOfflineError, match=r"said nothing for 0\.3 s"):
            await collect(engine, "hold the line")


async def test_without_a_broker_it_says_so_after_its_timeout() -> None:
    settings = MqttSettings(host=HOST, port=free_port())
    async with RemoteEngine(settings, timeout_s=0.2) as engine:
        with pytest.raises(BrokerError, match=f"{HOST}:{settings.port} does not answer"):
            await collect(engine)


# edge-llm ask ------------------------------------------------------------------------------------


async def ask(port: int, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_llm", "ask", "--port", str(port), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_ask_prints_the_answer(broker: Broker) -> None:
    async with serving(broker.settings(), PromptedEngine()), RawClient(broker.port) as client:
        await client.subscribe("llm/node/stage/status")
        await client.wait_for("llm/node/stage/status")
        assert await ask(broker.port, "say Good evening.") == (0, "Good evening.\n", "")


async def test_ask_fails_in_one_line(mosquitto: Mosquitto) -> None:
    async with serving(mosquitto.broker().settings(), PromptedEngine()):
        code, out, err = await ask(mosquitto.port, "fail")
    assert (code, out, err) == (1, "", "edge-llm: it was told to fail\n")


async def test_ask_says_that_no_node_is_there(mosquitto: Mosquitto) -> None:
    code, out, err = await ask(mosquitto.port, "Hello?")
    assert (code, out) == (1, "")
    assert err.startswith("edge-llm: no node is online")
    assert err.count("\n") == 1
