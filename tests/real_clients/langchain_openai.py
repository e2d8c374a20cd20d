"""LangChain with OpenAI's dialect: ``langchain_openai.py URL MODEL``."""

import asyncio
import sys
from typing import Literal

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

URL, MODEL = sys.argv[1:]
HOW = {"base_url": f"{URL}/v1", "api_key": "-", "model": MODEL, "max_retries": 0}


class Answer(BaseModel):
    """How you are."""

    mood: Literal["happy", "sad"]
    strength: int = Field(ge=0, le=9)


@tool
def get_weather(city: Literal["Berlin", "Rome"]) -> str:
    """What the weather is like."""
    return f"It rains in {city}."


def tools(chat: ChatOpenAI) -> None:
    bound = chat.bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False)
    asked = bound.invoke("What is the weather like?")
    (call,) = asked.tool_calls
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    assert result.content.startswith("It rains in")
    answer = chat.bind_tools([get_weather]).invoke(
        [HumanMessage("What is the weather like?"), asked, result]
    )
    assert answer.content or answer.tool_calls
    whole = None
    for chunk in bound.stream("What is the weather like?"):
        whole = chunk if whole is None else whole + chunk
    assert whole.tool_calls[0]["args"]["city"] in ("Berlin", "Rome")


async def asynchronous(chat: ChatOpenAI) -> None:
    answers = await chat.abatch(["Who are you?"] * 3)
    assert all("edge-llm" in answer.content for answer in answers)
    assert "edge-llm" in "".join([chunk.content async for chunk in chat.astream("Who are you?")])


chat = ChatOpenAI(**HOW, temperature=0)
answer = chat.invoke([SystemMessage("Be short."), HumanMessage("Who are you?")])
assert answer.content
assert "edge-llm" in chat.invoke("Who are you?").content
assert answer.usage_metadata["output_tokens"] > 0
chunks = list(chat.stream("Who are you?"))
assert sum(bool(chunk.content) for chunk in chunks) > 5
tools(chat)
for method in ("json_schema", "function_calling"):
    structured = chat.with_structured_output(Answer, method=method)
    assert isinstance(structured.invoke("How are you?"), Answer), method
asyncio.run(asynchronous(chat))
responses = ChatOpenAI(**HOW, temperature=0, use_responses_api=True)
assert "edge-llm" in responses.invoke("Who are you?").text
assert "edge-llm" in "".join(chunk.text for chunk in responses.stream("Who are you?"))
assert isinstance(responses.with_structured_output(Answer).invoke("How are you?"), Answer)
