"""Pydantic AI: ``pydantic_ai.py URL MODEL``."""

import asyncio
import sys
from typing import Literal

from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

URL, MODEL = sys.argv[1:]
provider = OpenAIProvider(base_url=f"{URL}/v1", api_key="-")
chat = OpenAIChatModel(MODEL, provider=provider)
SETTINGS = {"temperature": 0}


class Answer(BaseModel):
    """How you are."""

    mood: Literal["happy", "sad"]
    strength: int = Field(ge=0, le=9)


async def streaming() -> None:
    async with Agent(chat, model_settings=SETTINGS).run_stream("Who are you?") as result:
        texts = [text async for text in result.stream_text(delta=True, debounce_by=None)]
    assert len(texts) > 5
    assert "edge-llm" in "".join(texts)


def tools() -> None:
    cities = []
    agent = Agent(chat, output_type=[Answer], model_settings=SETTINGS)

    @agent.tool_plain
    def get_weather(city: Literal["Berlin", "Rome"]) -> str:
        """What the weather is like."""
        cities.append(city)
        return "It rains."

    assert isinstance(agent.run_sync("How are you?").output, Answer)
    assert set(cities) <= {"Berlin", "Rome"}


result = Agent(chat, model_settings=SETTINGS).run_sync("Who are you?")
assert "edge-llm" in result.output
assert result.usage.output_tokens > 5
again = Agent(chat).run_sync("And what else?", message_history=result.all_messages())
assert again.output
asyncio.run(streaming())
for kind in (Answer, ToolOutput(Answer), NativeOutput(Answer)):
    answer = Agent(chat, output_type=kind, retries=0).run_sync("How are you?").output
    assert isinstance(answer, Answer), kind
responses = OpenAIResponsesModel(MODEL, provider=provider)
assert "edge-llm" in Agent(responses, model_settings=SETTINGS).run_sync("Who are you?").output
answer = Agent(responses, output_type=NativeOutput(Answer)).run_sync("How are you?").output
assert isinstance(answer, Answer)
