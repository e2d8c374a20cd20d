"""Ollama's own client: ``ollama.py URL MODEL``."""

import asyncio
import sys
from typing import Literal

import ollama
from pydantic import BaseModel, Field

URL, MODEL = sys.argv[1:]
ASK = [{"role": "user", "content": "Who are you?"}]
COLD = {"temperature": 0}


class Answer(BaseModel):
    mood: Literal["happy", "sad"]
    strength: int = Field(ge=0, le=9)


def get_weather(city: str) -> str:
    """What the weather is like.

    Args:
        city: where
    """
    return f"It rains in {city}."


def about(client: ollama.Client) -> None:
    names = [model.model for model in client.list().models]
    assert any(name in (MODEL, f"{MODEL}:latest") for name in names), names
    shown = client.show(MODEL)
    assert shown.details
    assert "completion" in shown.capabilities
    assert client.ps().models


def chatting(client: ollama.Client) -> None:
    answer = client.chat(MODEL, ASK, options=COLD)
    assert "edge-llm" in answer.message.content
    assert answer.done_reason == "stop"
    assert answer.eval_count > 5
    assert answer.total_duration > 0
    parts = list(client.chat(MODEL, ASK, options=COLD, stream=True))
    assert len(parts) > 5
    assert "edge-llm" in "".join(part.message.content or "" for part in parts)
    assert parts[-1].done
    few = client.chat(MODEL, ASK, options={"num_predict": 3, "seed": 1, "stop": ["\n"]})
    assert few.eval_count == 3
    assert few.done_reason == "length"
    quiet = client.chat(MODEL, ASK, think=False, options=COLD, keep_alive="5m")
    assert not quiet.message.thinking


def generating(client: ollama.Client) -> None:
    answer = client.generate(MODEL, "Who are you?", options=COLD)
    assert "edge-llm" in answer.response
    parts = list(client.generate(MODEL, "Who are you?", options=COLD, stream=True))
    assert "edge-llm" in "".join(part.response for part in parts)
    assert client.generate(MODEL, "Hello", system="Be short.").done


def structured(client: ollama.Client) -> None:
    answer = client.chat(MODEL, ASK, format=Answer.model_json_schema())
    assert Answer.model_validate_json(answer.message.content)
    answer = client.generate(MODEL, "How are you?", format=Answer.model_json_schema())
    assert Answer.model_validate_json(answer.response)


def tools(client: ollama.Client) -> None:
    asked = client.chat(MODEL, ASK, tools=[get_weather])  # as the model likes
    for call in asked.message.tool_calls or ():
        assert call.function.name == "get_weather"
    calls = [{"function": {"name": "get_weather", "arguments": {"city": "Rome"}}}]
    done = [
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "It rains.", "tool_name": "get_weather"},
    ]
    answer = client.chat(MODEL, [*ASK, *done], tools=[get_weather])
    assert answer.message.content or answer.message.tool_calls


def errors(client: ollama.Client) -> None:
    try:
        client.chat("no-such-model", ASK)
    except ollama.ResponseError as caught:
        error = caught
    assert error.status_code == 404
    assert "no-such-model" in error.error


async def asynchronous() -> None:
    client = ollama.AsyncClient(URL)
    stream = await client.chat(MODEL, ASK, options=COLD, stream=True)
    texts = [part.message.content or "" async for part in stream]
    assert "edge-llm" in "".join(texts)
    answers = await asyncio.gather(*(client.chat(MODEL, ASK, options=COLD) for _ in range(4)))
    assert all("edge-llm" in answer.message.content for answer in answers)


client = ollama.Client(URL)
about(client)
chatting(client)
generating(client)
structured(client)
tools(client)
errors(client)
asyncio.run(asynchronous())
