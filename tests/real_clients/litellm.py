"""LiteLLM with both dialects: ``litellm.py URL MODEL``."""

import asyncio
import json
import os
import sys
from typing import Literal

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks GitHub for prices

import litellm
from pydantic import BaseModel, Field

URL, MODEL = sys.argv[1:]
OPENAI = {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": "-"}
OLLAMA = {"model": f"ollama_chat/{MODEL}", "api_base": URL}
ASK = {"messages": [{"role": "user", "content": "Who are you?"}], "temperature": 0}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Berlin", "Rome"]}},
            "required": ["city"],
        },
    },
}


class Answer(BaseModel):
    mood: Literal["happy", "sad"]
    strength: int = Field(ge=0, le=9)


def both(how: dict[str, str]) -> None:
    completion = litellm.completion(**how, **ASK)
    assert "edge-llm" in completion.choices[0].message.content
    assert completion.usage.completion_tokens > 5
    chunks = list(litellm.completion(**how, **ASK, stream=True))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert sum(bool(text) for text in texts) > 5
    assert "edge-llm" in "".join(texts)
    parsed = litellm.completion(**how, **ASK, response_format=Answer)
    Answer.model_validate_json(parsed.choices[0].message.content)


async def asynchronous(how: dict[str, str]) -> None:
    completion = await litellm.acompletion(**how, **ASK)
    assert "edge-llm" in completion.choices[0].message.content
    stream = await litellm.acompletion(**how, **ASK, stream=True)
    texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "edge-llm" in "".join(texts)


def tools() -> None:
    called = litellm.completion(
        **OPENAI, **ASK, tools=[TOOL], tool_choice="required", parallel_tool_calls=False
    ).choices[0]
    (call,) = called.message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Berlin", "Rome")
    assert called.finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "It rains."}
    messages = [*ASK["messages"], called.message.model_dump(), result]
    answer = litellm.completion(**OPENAI, messages=messages, tools=[TOOL])
    assert answer.choices[0].message
    free = litellm.completion(**OLLAMA, **ASK, tools=[TOOL])  # as the model likes
    assert free.choices[0].message.content or free.choices[0].message.tool_calls


for how in (OPENAI, OLLAMA):
    both(how)
    asyncio.run(asynchronous(how))
tools()
response = litellm.responses(**OPENAI, input="Who are you?", temperature=0)
assert "edge-llm" in response.output[0].content[0].text
