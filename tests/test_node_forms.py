"""Forms and tools over MQTT, on the built-in model: for a button, a lamp and a session."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edge_llm.client import RemoteEngine
from edge_llm.errors import UnsupportedSchemaError
from edge_llm.node import open_node
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    JsonSchema,
    JsonSchemaFormat,
    NamedFunction,
    NamedTool,
    Tool,
    join_tool_calls,
)
from edge_llm.settings import HttpSettings, MqttSettings, Settings
from tests.brokers import Mosquitto
from tests.clients import RawClient

COLORS = {"type": "string", "enum": ["red", "green", "blue"]}
LAMP: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "set_lamp",
        "description": "Change the colour of the lamp.",
        "parameters": {"type": "object", "properties": {"color": COLORS}, "required": ["color"]},
    },
}


@pytest.fixture
async def client(mosquitto: Mosquitto) -> AsyncIterator[RawClient]:
    settings = Settings(
        node="pi5", mqtt=MqttSettings(port=mosquitto.port), http=HttpSettings(enabled=False)
    )
    async with open_node(settings) as node, RawClient(mosquitto.port) as client:
        await node.engine.ready()
        await client.subscribe("llm/response/#")
        yield client


async def ask(client: RawClient, request: dict[str, Any] | str, name: str) -> str:
    payload = request if isinstance(request, str) else json.dumps(request)
    client.publish(f"llm/request/{name}", payload.encode(), 1)
    [said] = await client.wait_for(f"llm/response/{name}", timeout_s=20)
    return said.decode()


async def test_a_button_gets_one_of_its_choices(client: RawClient) -> None:
    for number, choices in enumerate((["yes", "no"], ["red", "green", "blue"], ["只", "🦊 fox"])):
        said = await ask(
            client, {"prompt": "Which?", "choices": choices, "format": "text"}, f"b/{number}"
        )
        assert said in choices


async def test_a_lamp_gets_json_of_its_schema(client: RawClient) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": {**LAMP["function"]["parameters"]}}}
    said = json.loads(await ask(client, {"prompt": "Light?", "response_format": form}, "lamp"))
    assert said["finish_reason"] == "stop"
    assert json.loads(said["text"])["color"] in COLORS["enum"]
    form["json_schema"] = {"schema": {"type": "nonsense"}}
    said = json.loads(await ask(client, {"prompt": "Light?", "response_format": form}, "lamp2"))
    assert said["error"]["code"] == "unsupported_schema"
    assert said["error"]["param"] == "response_format"


async def test_a_session_remembers_calls_and_their_results(client: RawClient) -> None:
    request = {"session": "booth", "tools": [LAMP], "seed": 1}
    said = json.loads(
        await ask(client, {**request, "prompt": "Red!", "tool_choice": "required"}, "s/1")
    )
    assert said["finish_reason"] == "tool_calls"
    assert said["text"] == ""
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "It is red."}
        for call in said["tool_calls"]
    ]
    assert results
    said = json.loads(
        await ask(client, {**request, "messages": results, "tool_choice": "none"}, "s/2")
    )
    assert said["finish_reason"] in ("stop", "length")
    assert "tool_calls" not in said
    asked = json.loads(
        await ask(client, {"session": "booth", "prompt": "Thank you", "seed": 1}, "s/3")
    )
    alone = json.loads(await ask(client, {"prompt": "Thank you", "seed": 1}, "s/4"))
    assert asked["usage"]["prompt_tokens"] > alone["usage"]["prompt_tokens"] + 20


async def test_log_probabilities_cover_the_text(client: RawClient) -> None:
    request = {"prompt": "Who are you?", "logprobs": True, "top_logprobs": 2, "max_tokens": 12}
    said = json.loads(await ask(client, request, "p"))
    told = b"".join(bytes(token["bytes"]) for token in said["logprobs"]).decode(errors="replace")
    assert told.strip() == said["text"]
    assert all(len(token["top_logprobs"]) == 2 for token in said["logprobs"])


async def test_a_remote_engine_hears_of_calls(mosquitto: Mosquitto, client: RawClient) -> None:
    assert client
    tool = Tool.model_validate(LAMP)
    choice = NamedTool(type="function", function=NamedFunction(name="set_lamp"))
    async with RemoteEngine(MqttSettings(port=mosquitto.port)) as remote:
        request = ChatRequest(prompt="Blue!", tools=(tool,), tool_choice=choice, logprobs=True)
        events = [event async for event in remote.generate(request)]
        done = events[-1]
        assert isinstance(done, Done)
        assert done.finish_reason == "tool_calls"
        pieces = [p for event in events if isinstance(event, Delta) for p in event.tool_calls]
        calls = join_tool_calls(pieces)
        assert {call.function.name for call in calls} == {"set_lamp"}
        assert all(json.loads(c.function.arguments)["color"] in COLORS["enum"] for c in calls)
        form = JsonSchemaFormat(
            type="json_schema", json_schema=JsonSchema(schema={"type": "nonsense"})
        )
        with pytest.raises(UnsupportedSchemaError):
            [
                event
                async for event in remote.generate(ChatRequest(prompt="x", response_format=form))
            ]
