"""Instructor: answers as objects: ``instructor.py URL MODEL``."""

import asyncio
import sys
from typing import Literal

import instructor
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

URL, MODEL = sys.argv[1:]
HOW = {"base_url": f"{URL}/v1", "api_key": "-", "max_retries": 0}
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "How are you?"}]}


class Answer(BaseModel):
    """How you are."""

    mood: Literal["happy", "sad"]
    strength: int = Field(ge=0, le=9)


async def asynchronous() -> None:
    client = instructor.from_openai(AsyncOpenAI(**HOW), mode=instructor.Mode.TOOLS)
    answer = await client.chat.completions.create(**ASK, response_model=Answer)
    assert isinstance(answer, Answer)


for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(OpenAI(**HOW), mode=mode)
    answer = client.chat.completions.create(**ASK, response_model=Answer, max_retries=0)
    assert isinstance(answer, Answer), mode
    answer, completion = client.chat.completions.create_with_completion(
        **ASK, response_model=Answer, max_retries=0
    )
    assert completion.usage.completion_tokens > 0
    parts = list(client.chat.completions.create_partial(**ASK, response_model=Answer))
    assert Answer.model_validate(parts[-1].model_dump())
asyncio.run(asynchronous())
