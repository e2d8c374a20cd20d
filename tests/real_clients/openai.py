"""OpenAI's own client: ``openai.py URL MODEL``."""

import asyncio
import json
import sys
from enum import StrEnum

import openai
from openai import AsyncOpenAI, AzureOpenAI, OpenAI
from pydantic import BaseModel, Field

URL, MODEL = sys.argv[1:]
ASK = [{"role": "user", "content": "Who are you?"}]
WEATHER = {
    "name": "get_weather",
    "description": "What the weather is like",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Berlin", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
TOOL = {"type": "function", "function": WEATHER}


class Mood(StrEnum):
    happy = "happy"
    sad = "sad"


class Answer(BaseModel):
    mood: Mood
    strength: int = Field(ge=0, le=9)
    tired: bool


def plain(client: OpenAI | AzureOpenAI) -> None:
    completion = client.chat.completions.create(model=MODEL, messages=ASK, temperature=0)
    choice = completion.choices[0]
    assert "edge-llm" in choice.message.content, choice
    assert choice.finish_reason == "stop"
    assert completion.usage.completion_tokens > 5
    assert completion.model == MODEL


def streaming(client: OpenAI | AzureOpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    texts = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert len(texts) > 5
    assert "edge-llm" in "".join(texts)
    assert chunks[-1].usage.total_tokens > 5
    with client.chat.completions.stream(model=MODEL, messages=ASK, temperature=0) as events:
        assert "edge-llm" in events.get_final_completion().choices[0].message.content


def options(client: OpenAI) -> None:
    completion = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "developer", "content": [{"type": "text", "text": "Be short."}]}, *ASK],
        n=2,
        logprobs=True,
        top_logprobs=2,
        seed=7,
        max_completion_tokens=8,
        stop=["\n\n"],
        user="u",
        metadata={"a": "b"},
    )
    assert len(completion.choices) == 2
    tokens = completion.choices[1].logprobs.content
    assert len(tokens[0].top_logprobs) == 2
    assert "".join(token.token for token in tokens) == completion.choices[1].message.content
    legacy = client.completions.create(model=MODEL, prompt="Hello", max_tokens=4)
    assert legacy.choices[0].text


def structured(client: OpenAI) -> None:
    completion = client.chat.completions.parse(model=MODEL, messages=ASK, response_format=Answer)
    assert isinstance(completion.choices[0].message.parsed, Answer)
    completion = client.chat.completions.create(
        model=MODEL, messages=ASK, response_format={"type": "json_object"}, max_tokens=400
    )
    if completion.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(completion.choices[0].message.content), dict)


def tools(client: OpenAI) -> None:
    first = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=[TOOL], tool_choice="required", parallel_tool_calls=False
    ).choices[0]
    assert first.finish_reason == "tool_calls", first
    (call,) = first.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Berlin", "Rome")
    result = {"role": "tool", "tool_call_id": call.id, "content": "It rains."}
    second = client.chat.completions.create(
        model=MODEL, messages=[*ASK, first.message, result], tools=[TOOL]
    ).choices[0]
    assert second.message.content or second.message.tool_calls
    named = {"type": "function", "function": {"name": "get_weather"}}
    with client.chat.completions.stream(
        model=MODEL, messages=ASK, tools=[TOOL], tool_choice=named
    ) as events:
        message = events.get_final_completion().choices[0].message
    assert message.tool_calls[0].function.parsed_arguments["city"] in ("Berlin", "Rome")
    none = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=[TOOL], tool_choice="none", temperature=0
    )
    assert none.choices[0].message.tool_calls is None


def responses(client: OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="Who are you?", temperature=0)
    assert "edge-llm" in response.output_text
    assert response.usage.output_tokens > 5
    with client.responses.stream(model=MODEL, input=ASK, temperature=0) as events:
        kinds = [event.type for event in events]
        assert "edge-llm" in events.get_final_response().output_text
    assert kinds[0] == "response.created"
    assert kinds.count("response.output_text.delta") > 5
    parsed = client.responses.parse(model=MODEL, input="How are you?", text_format=Answer)
    assert isinstance(parsed.output_parsed, Answer)
    called = client.responses.create(
        model=MODEL,
        input=ASK,
        tools=[{"type": "function", **WEATHER}],
        tool_choice="required",
        parallel_tool_calls=False,
        store=False,
    )
    (call,) = [item for item in called.output if item.type == "function_call"]
    assert json.loads(call.arguments)["city"] in ("Berlin", "Rome")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}
    answer = client.responses.create(model=MODEL, input=[*ASK, *called.output, result])
    assert answer.status in ("completed", "incomplete")


def errors(client: OpenAI) -> None:
    def error_of(model: str, text: str) -> openai.APIStatusError:
        try:
            client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": text}]
            )
        except openai.APIStatusError as error:
            return error
        raise AssertionError("it was not refused")

    assert isinstance(error_of("no-such-model", "Hello"), openai.NotFoundError)
    too_long = error_of(MODEL, "a " * 5000)
    assert isinstance(too_long, openai.BadRequestError)
    assert "context" in too_long.code


async def asynchronous() -> None:
    async with AsyncOpenAI(base_url=f"{URL}/v1", api_key="-", max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == [MODEL]
        assert (await client.models.retrieve(MODEL)).id == MODEL
        stream = await client.chat.completions.create(
            model=MODEL, messages=ASK, stream=True, temperature=0
        )
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "edge-llm" in "".join(texts)
        many = (
            client.chat.completions.create(model=MODEL, messages=ASK, temperature=0)
            for _ in range(4)
        )
        for completion in await asyncio.gather(*many):
            assert "edge-llm" in completion.choices[0].message.content


client = OpenAI(base_url=f"{URL}/v1", api_key="-", max_retries=0)
azure = AzureOpenAI(azure_endpoint=URL, api_key="-", api_version="2025-04-01-preview")
plain(client)
streaming(client)
options(client)
structured(client)
tools(client)
responses(client)
errors(client)
asyncio.run(asynchronous())
plain(azure)
streaming(azure)
