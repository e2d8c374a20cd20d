"""The built-in model, in a worker of its own, asked by OpenAI's client over HTTP."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel

from bridges.http import open_http
from edge_llm.engine import open_engine
from edge_llm.plugin import BridgeContext
from edge_llm.settings import EngineSettings, HttpSettings

ASK: Any = {"model": "tiny", "messages": [{"role": "user", "content": "Hello, who are you?"}]}


class Light(BaseModel):
    """A function's arguments, and the form of an answer."""

    room: str
    on: bool


@pytest.fixture
async def client() -> AsyncIterator[openai.AsyncOpenAI]:
    settings = HttpSettings(port=0, model_aliases=("tiny",))
    async with (
        open_engine(EngineSettings()) as engine,
        open_http(settings, BridgeContext("pi5", engine)) as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        await engine.ready()
        yield client


async def test_openais_client_gets_all_that_it_asks_for(client: openai.AsyncOpenAI) -> None:
    tools: Any = [openai.pydantic_function_tool(Light, name="light")]
    create = client.chat.completions.create
    options: Any = {"max_tokens": 60, "temperature": 0}

    first: ChatCompletion = await create(**ASK, **options, logprobs=True, top_logprobs=2)
    text = first.choices[0].message.content or ""
    logprobs = first.choices[0].logprobs
    assert logprobs
    said = b"".join(bytes(token.bytes or ()) for token in logprobs.content or ())
    assert said.decode().startswith(text)
    assert all(len(token.top_logprobs) == 2 for token in logprobs.content or ())

    stream = await create(**ASK, **options, stream=True)
    assert "".join([c.choices[0].delta.content or "" async for c in stream]) == text

    twice = await create(**ASK, max_tokens=30, temperature=1, seed=1, n=2)
    again = await create(**ASK, max_tokens=30, temperature=1, seed=2)
    assert twice.choices[1].message.content == again.choices[0].message.content

    parsed = await client.chat.completions.parse(**ASK, **options, response_format=Light)
    assert isinstance(parsed.choices[0].message.parsed, Light)

    called = await create(**ASK, **options, tools=tools, tool_choice="required")
    message = called.choices[0].message
    assert called.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    call = next(iter(message.tool_calls or []))
    assert call.type == "function"
    Light.model_validate_json(call.function.arguments)
    async with client.chat.completions.stream(
        **ASK, **options, tools=tools, tool_choice="required"
    ) as calling:
        final = await calling.get_final_completion()
    streamed = next(iter(final.choices[0].message.tool_calls or [])).function
    assert (streamed.name, streamed.arguments) == ("light", call.function.arguments)

    result: Any = {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"done": True})}
    history: Any = [*ASK["messages"], message, result]
    ended = await create(**ASK | {"messages": history}, **options, tools=tools)
    assert ended.choices[0].message.content

    response: Response = await client.responses.create(
        model="tiny", input=ASK["messages"], max_output_tokens=60, temperature=0
    )
    assert response.output_text == text
    async with client.responses.stream(
        model="tiny", input=ASK["messages"], max_output_tokens=60, temperature=0
    ) as responding:
        assert (await responding.get_final_response()).output_text == text

    legacy = await client.completions.create(
        model="tiny", prompt=ASK["messages"][0]["content"], max_tokens=60, temperature=0
    )
    assert legacy.choices[0].text == text

    long: Any = ASK | {"messages": [{"role": "user", "content": "hello " * 3000}]}
    with pytest.raises(openai.BadRequestError) as info:
        await create(**long, stream=True)
    assert info.value.code == "context_overflow"
