"""LangChain with Ollama's dialect: ``langchain_ollama.py URL MODEL``."""

import asyncio
import sys
from typing import Literal

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaLLM
from pydantic import BaseModel, Field

URL, MODEL = sys.argv[1:]
HOW = {"base_url": URL, "model": MODEL, "temperature": 0}


class Answer(BaseModel):
    """How you are."""

    mood: Literal["happy", "sad"]
    strength: int = Field(ge=0, le=9)


@tool
def get_weather(city: Literal["Berlin", "Rome"]) -> str:
    """What the weather is like."""
    return f"It rains in {city}."


async def asynchronous(chat: ChatOllama) -> None:
    answers = await chat.abatch(["Who are you?"] * 3)
    assert all("edge-llm" in answer.content for answer in answers)
    assert "edge-llm" in "".join([chunk.content async for chunk in chat.astream("Who are you?")])


chat = ChatOllama(**HOW, validate_model_on_init=True)
answer = chat.invoke([SystemMessage("Be short."), HumanMessage("Who are you?")])
assert answer.content
assert answer.usage_metadata["output_tokens"] > 0
assert answer.response_metadata["done_reason"] == "stop"
assert "edge-llm" in chat.invoke("Who are you?").content
assert sum(bool(chunk.content) for chunk in chat.stream("Who are you?")) > 5
structured = chat.with_structured_output(Answer, method="json_schema")
assert isinstance(structured.invoke("How are you?"), Answer)
asked = chat.bind_tools([get_weather]).invoke("What is the weather like?")  # as the model likes
assert asked.content or asked.tool_calls
asyncio.run(asynchronous(chat))
assert "edge-llm" in ChatOllama(**HOW, reasoning=False).invoke("Who are you?").content
assert OllamaLLM(**HOW).invoke("Hello")
