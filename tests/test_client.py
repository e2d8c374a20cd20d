"""A node behind a broker, as an Engine, and ``edge-llm ask``."""

import asyncio
import json
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path

import pytest

import edge_llm
import edge_llm.client
from edge_llm import ChatRequest, Delta, Done, Message, MqttRequest, Queued, RemoteEngine, Started
from edge_llm.errors import (
    ContextOverflowError,
    EdgeLLMError,
    EngineFailedError,
    ExpiredError,
    NodeOfflineError,
    QueueFullError,
    UnknownFieldError,
    UnknownModelError,
)
from tests.brokers import Broker, Mosquitto
from tests.clients import RawClient, eventually
from tests.programs import HOST
from tests.prompted_engine import PromptedEngine
from tests.remote import collect, faking, remote, texts
from tests.stage import serving


async def test_it_streams(broker: Broker) -> None:
    async with remote(broker, PromptedEngine()) as engine:
        started, *deltas, done = await collect(engine)
    assert started == Started()
    assert texts(deltas) == ["Good", " evening", " to", " you"]
    assert isinstance(done, Done)
    assert (done.finish_reason, done.usage.completion_tokens) == ("stop", 4)
    assert done.timing.total_s >= 0


async def test_the_request_arrives_as_it_was_made(mosquitto: Mosquitto) -> None:
    request = MqttRequest(
        messages=(Message(role="system", content="Be brief."), Message(role="user", content="Hi")),
        max_tokens=7,
        temperature=0.5,
        stop=("\n",),
        seed=3,
        logit_bias={5: -1.0},
        priority=5,  # the default, but a preset may say otherwise
        ttl_s=30.0,
        session="visitor7",
        stream="sentence",
    )
    broker = mosquitto.broker()
    async with broker.client() as spy, remote(broker, PromptedEngine()) as engine:
        await spy.subscribe("llm/request/#")
        async with aclosing(engine.generate(request)) as events:
            assert len([event async for event in events]) == 3
        await eventually(lambda: spy.messages)
    said = json.loads(spy.messages[0].payload)
    ours = {name: said.pop(name) for name in ("node", "events", "format")}
    assert ours == {"node": "stage", "events": True, "format": "json"}
    assert MqttRequest.model_validate_json(json.dumps(said)) == request
    assert "priority" in said


async def test_a_plain_request_says_only_what_it_must(mosquitto: Mosquitto) -> None:
    async with faking(mosquitto.broker()) as node, RemoteEngine(mosquitto.broker().settings()) as e:
        reply = asyncio.create_task(e.ask("Hi"))
        topic, said = await node.request()
        node.end(topic, text="Ho")
        assert await reply == "Ho"
    ours = {"node": "x", "stream": "token", "events": True, "format": "json"}
    assert said == {"prompt": "Hi", **ours}


async def test_it_knows_the_models_and_who_is_online(broker: Broker) -> None:
    async with remote(broker, PromptedEngine()) as engine:
        await eventually(lambda: engine.models)
        assert [model.id for model in engine.models] == ["tiny"]
        await eventually(lambda: (engine.state, engine.activity) == ("ready", "idle"))
        assert engine.is_online


async def test_its_state_is_that_of_the_node(mosquitto: Mosquitto) -> None:
    info = {"node": "x", "version": "1", "boot_id": "b", "engine": "worker", "queue_limit": 1}
    model = {"id": "tiny", "context_len": 512, "vocab_size": 9}
    async with faking(mosquitto.broker()) as node, RemoteEngine(mosquitto.broker().settings()) as e:
        assert (e.state, e.activity) == ("offline", "offline")
        node.say("info", {**info, "models": []})
        node.say("activity", "loading 3/37")
        await eventually(lambda: e.activity == "loading 3/37")
        assert str(e.state) == "loading"
        assert await e.ready() == ()
        node.say("info", {**info, "models": [model]})
        node.say("activity", "recovering")
        await eventually(lambda: e.activity == "recovering")
        assert str(e.state) == "recovering"
        node.say("activity", "idle")
        await eventually(lambda: e.state == "ready")
        node.say("status", "offline")
        await eventually(lambda: not e.is_online)
        assert (e.state, e.activity, e.models) == ("offline", "offline", ())


async def test_requests_run_side_by_side(broker: Broker) -> None:
    async with remote(broker, PromptedEngine()) as engine:
        replies = await asyncio.gather(*(collect(engine, f"say {n} yes") for n in range(3)))
    for number, events in enumerate(replies):
        assert texts(events) == [str(number), " yes"]
    assert not engine._asked


async def test_who_waits_is_told_so(broker: Broker) -> None:
    node = PromptedEngine()
    async with remote(broker, node) as engine:
        first = asyncio.create_task(collect(engine, "hold on"))
        await eventually(lambda: node.num_running)
        second = asyncio.create_task(collect(engine))
        await eventually(lambda: len(engine._asked) == 2)
        await asyncio.sleep(0.1)
        node.release.set()
        await first
        events = await second
    assert events[:3] == [Queued(position=1), Started(), Delta(text="Good")]


async def test_ask_is_the_whole_answer(mosquitto: Mosquitto) -> None:
    async with remote(mosquitto.broker(), PromptedEngine()) as engine:
        assert await engine.ask("say Good evening.", max_tokens=9) == "Good evening."
        messages = [{"role": "user", "content": "say Yes."}]
        assert await engine.ask(messages=messages) == "Yes."
        with pytest.raises(UnknownFieldError, match="max_token"):
            await engine.ask("Hi", max_token=3)


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
    async with remote(mosquitto.broker(), PromptedEngine(error=error), retries=0) as engine:
        with pytest.raises(EdgeLLMError) as caught:
            await collect(engine)
        assert type(caught.value) is type(error)
        assert vars(caught.value) == vars(error)
        assert not engine._asked


async def test_an_unknown_model_is_an_error_of_its_own(mosquitto: Mosquitto) -> None:
    async with remote(mosquitto.broker(), PromptedEngine()) as engine:
        with pytest.raises(UnknownModelError, match="gpt-4"):
            await collect(engine, model="gpt-4")


async def test_deltas_that_got_lost_are_made_up_for(mosquitto: Mosquitto) -> None:
    """They travel at QoS 0; after a gap the rest comes with the final message."""
    broker = mosquitto.broker()
    async with faking(broker) as node, RemoteEngine(broker.settings()) as engine:
        reply = asyncio.create_task(collect(engine))
        topic, _ = await node.request()
        node.delta(topic, 0, "Good")
        node.delta(topic, 2, " to")
        node.delta(topic, 3, " you")
        node.end(topic, text="Good evening to you", reasoning="Be polite.")
        started, *deltas, done = await reply
    assert deltas == [Delta(text="Good"), Delta(text=" evening to you", reasoning="Be polite.")]
    assert (started, type(done)) == (Started(), Done)


# Queue full --------------------------------------------------------------------------------------


async def test_a_full_queue_is_asked_again_when_it_said_so(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    async with faking(broker) as node, RemoteEngine(broker.settings()) as engine:
        reply = asyncio.create_task(collect(engine))
        begin = time.monotonic()
        asked = []
        for number in range(3):
            topic, _ = await node.request(number)
            asked.append(topic)
            node.fail(topic, QueueFullError("too many", retry_after_s=0.2))
        topic, _ = await node.request(3)
        took_s = time.monotonic() - begin
        node.end(topic, text="Good")
        assert texts(await reply) == ["Good"]
    assert len({*asked, topic}) == 4
    assert 0.6 <= took_s < 2


async def test_a_queue_that_stays_full_is_given_up(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    async with faking(broker) as node, RemoteEngine(broker.settings(), retries=1) as engine:
        reply = asyncio.create_task(collect(engine))
        for number in range(2):
            topic, _ = await node.request(number)
            node.fail(topic, QueueFullError("too many", retry_after_s=0.05))
        with pytest.raises(QueueFullError) as caught:
            await reply
        assert caught.value.retry_after_s == 0.05
        assert not node.num_cancels


async def test_it_does_not_wait_for_a_queue_beyond_its_time(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    async with faking(broker) as node, RemoteEngine(broker.settings(), total_timeout_s=5) as engine:
        reply = asyncio.create_task(collect(engine))
        begin = time.monotonic()
        topic, _ = await node.request()
        node.fail(topic, QueueFullError("too many", retry_after_s=30))
        with pytest.raises(QueueFullError):
            await reply
        assert time.monotonic() - begin < 3


# Ends ---------------------------------------------------------------------------------------------


async def test_closing_it_cancels_at_the_node(broker: Broker) -> None:
    node = PromptedEngine()
    async with remote(broker, node) as engine:
        async with aclosing(engine.generate(ChatRequest(prompt="hold the line"))) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
        await eventually(lambda: not node.num_running)
        assert not node.release.is_set()
        assert not engine._asked


async def test_cancelling_its_task_cancels_at_the_node(broker: Broker) -> None:
    node = PromptedEngine()
    async with remote(broker, node) as engine:
        task = asyncio.create_task(collect(engine, "hold the line"))
        await eventually(lambda: node.num_running)
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        assert task.cancelled()
        await eventually(lambda: not node.num_running)


async def test_a_total_timeout_ends_it_at_the_node_too(mosquitto: Mosquitto) -> None:
    node = PromptedEngine()
    async with remote(mosquitto.broker(), node, total_timeout_s=0.5) as engine:
        begin = time.monotonic()
        with pytest.raises(ExpiredError, match=r"no whole answer within 0\.5 s"):
            await collect(engine, "hold the line")
        assert 0.4 < time.monotonic() - begin < 2
        await eventually(lambda: not node.num_running)


async def test_a_node_that_falls_silent_is_given_up(mosquitto: Mosquitto) -> None:
    node = PromptedEngine()
    async with remote(mosquitto.broker(), node, silence_timeout_s=0.3) as engine:
        with pytest.raises(NodeOfflineError, match=r"said nothing for 0\.3 s"):
            await collect(engine, "hold the line")
        await eventually(lambda: not node.num_running)


# As a library -------------------------------------------------------------------------------------


def examples() -> list[str]:
    blocks = (edge_llm.client.__doc__ or "").split("::\n")[1:]
    return [block.split("\nWith ``generate``")[0].replace("\n    ", "\n") for block in blocks]


@pytest.mark.parametrize("number", [0, 1])
async def test_the_examples_run(mosquitto: Mosquitto, tmp_path: Path, number: int) -> None:
    program = tmp_path / "example.py"
    source = examples()[number]
    assert 'host="broker.local"' in source
    here = f'host="{HOST}", port={mosquitto.port}'
    program.write_text(source.replace('host="broker.local"', here))
    async with serving(mosquitto.broker().settings(), PromptedEngine()):
        code, out, err = await run(str(program))
    assert (code, err) == (0, "")
    assert out.startswith(("Who are you?\n", "Tell me a poem. (stop, ")[number])


def test_importing_the_package_costs_nothing() -> None:
    check = "import sys, edge_llm; print({'pydantic', 'paho', 'structlog'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_what_the_package_promises_is_there() -> None:
    assert all(getattr(edge_llm, name) for name in edge_llm.__all__)
    with pytest.raises(AttributeError, match="RemoteEngin"):
        edge_llm.RemoteEngin  # type: ignore[attr-defined]  # noqa: B018
    stub = Path(edge_llm.__file__).with_suffix(".pyi").read_text()
    assert all(f'"{name}"' in stub for name in edge_llm.__all__)


# edge-llm ask ------------------------------------------------------------------------------------


async def ask(port: int, *arguments: str) -> tuple[int, str, str]:
    return await run("-m", "edge_llm", "ask", "--port", str(port), *arguments)


async def run(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments),
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
