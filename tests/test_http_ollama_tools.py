"""Tools over Ollama's dialect: calls come whole, with arguments as objects."""

from collections.abc import AsyncIterator
from typing import Any

import ollama
import pytest

from edge_llm.protocol import (
    Delta,
    Done,
    FunctionCall,
    Message,
    ModelInfo,
    Started,
    ToolCall,
)
from tests.http_bridge import USAGE, HttpBridge, PlayedEngine, call_piece, open_bridge, talk, user

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Where."}},
    "required": ["city"],
}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Look out.", "parameters": WEATHER},
}
END = Done(finish_reason="tool_calls", usage=USAGE)


def weather(city: str) -> str:
    """Look out of the window.

    Args:
        city: where the window is.
    """
    return f"It rains in {city}."


@pytest.fixture
def engine() -> PlayedEngine:
    engine = PlayedEngine(talk("It rains."))
    engine.models = (ModelInfo(id="tiny", context_len=512, vocab_size=1000, has_tools=True),)
    return engine


@pytest.fixture
async def bridge(engine: PlayedEngine) -> AsyncIterator[HttpBridge]:
    async with open_bridge(engine) as bridge:
        yield bridge


@pytest.fixture
async def client(bridge: HttpBridge) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(host=bridge.server.url) as client:
        yield client


def play_two_calls(bridge: HttpBridge) -> None:
    bridge.play(
        Started(),
        Delta(text="Let me look. "),
        call_piece(0, "", "weather"),
        call_piece(0, '{"city": '),
        call_piece(0, '"Linz"}'),
        call_piece(1, '{"city": "Graz"}', "weather"),
        END,
    )


async def test_calls_are_objects(client: ollama.AsyncClient, bridge: HttpBridge) -> None:
    play_two_calls(bridge)
    reply = await client.chat("tiny", messages=[user()], tools=[TOOL])
    assert reply.message.content == "Let me look. "
    assert reply.message.tool_calls
    called = [(call.function.name, call.function.arguments) for call in reply.message.tool_calls]
    assert called == [("weather", {"city": "Linz"}), ("weather", {"city": "Graz"})]
    assert reply.done_reason == "stop"


async def test_a_call_is_streamed_when_it_is_whole(
    client: ollama.AsyncClient, bridge: HttpBridge
) -> None:
    play_two_calls(bridge)
    stream = await client.chat("tiny", messages=[user()], tools=[TOOL], stream=True)
    cities = [
        [call.function.arguments["city"] for call in part.message.tool_calls or ()]
        async for part in stream
    ]
    assert cities == [[], ["Linz"], ["Graz"], []]
    play_two_calls(bridge)
    body = {"model": "tiny", "messages": [user()], "tools": [TOOL], "stream": False}
    calls = (await bridge.post("/api/chat", body))["message"]["tool_calls"]
    assert calls[1] == {
        "id": "call_1",
        "function": {"index": 1, "name": "weather", "arguments": {"city": "Graz"}},
    }


async def test_a_call_that_was_cut_short_is_left_out(
    client: ollama.AsyncClient, bridge: HttpBridge
) -> None:
    bridge.play(
        Started(), call_piece(0, '{"ci', "weather"), Done(finish_reason="length", usage=USAGE)
    )
    reply = await client.chat("tiny", messages=[user()], tools=[TOOL])
    assert reply.message.tool_calls is None
    assert reply.done_reason == "length"


async def test_tools_reach_the_engine(client: ollama.AsyncClient, engine: PlayedEngine) -> None:
    await client.chat("tiny", messages=[user()], tools=[TOOL])
    await client.chat("tiny", messages=[user()], tools=[weather])  # the client describes it
    for asked in engine.asked:
        assert asked.tools
        function = asked.tools[0].function
        assert function.name == "weather"
        assert function.parameters
        assert function.parameters["required"] == ["city"]
        assert function.parameters["properties"]["city"]["type"] == "string"


async def test_the_results_of_calls_find_their_calls(
    client: ollama.AsyncClient, bridge: HttpBridge, engine: PlayedEngine
) -> None:
    play_two_calls(bridge)
    messages: list[Any] = [user("Where does it rain?")]
    reply = await client.chat("tiny", messages=messages, tools=[TOOL])
    messages += [
        reply.message,
        {"role": "tool", "tool_name": "weather", "content": "In Linz."},
        {"role": "tool", "content": "Not in Graz."},  # as Home Assistant sends it, without a name
    ]
    await client.chat("tiny", messages=messages, tools=[TOOL])
    calls = tuple(
        ToolCall(
            id=f"call_{index}",
            function=FunctionCall(name="weather", arguments=f'{{"city": "{city}"}}'),
        )
        for index, city in enumerate(["Linz", "Graz"])
    )
    assert engine.asked[-1].conversation == (
        Message(role="user", content="Where does it rain?"),
        Message(role="assistant", content="Let me look. ", tool_calls=calls),
        Message(role="tool", content="In Linz.", tool_call_id="call_0"),
        Message(role="tool", content="Not in Graz.", tool_call_id="call_1"),
    )


async def test_ids_are_kept_where_there_are_some(bridge: HttpBridge, engine: PlayedEngine) -> None:
    call = {"id": "abc", "function": {"name": "weather", "arguments": '{"city": "Linz"}'}}
    messages = [
        user(),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abc", "content": "Rain."},
    ]
    await bridge.post("/api/chat", {"messages": messages, "tools": [TOOL], "stream": False})
    _, asked, result = engine.asked[0].conversation
    assert asked.tool_calls
    assert (asked.tool_calls[0].id, result.tool_call_id) == ("abc", "abc")
    assert asked.tool_calls[0].function.arguments == '{"city": "Linz"}'


async def test_two_tools_of_one_name_are_refused(bridge: HttpBridge) -> None:
    async with bridge.http.post(
        "/api/chat", json={"messages": [user()], "tools": [TOOL, TOOL]}
    ) as response:
        assert response.status == 400
        assert await response.json() == {"error": "tools: two functions have the same name"}
