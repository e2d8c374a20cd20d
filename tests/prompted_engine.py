"""An engine that does what its prompts say."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from edge_llm.engine.gate import Gate
from edge_llm.engine.interface import EngineState
from edge_llm.errors import EdgeLLMError
from edge_llm.protocol import ChatRequest, Delta, Done, Event, Message, ModelInfo, Started, Usage


@dataclass
class PromptedEngine:
    """Does what the prompt says: ``hold`` waits for ``release``, ``fail`` fails, others are echoed.

    ``say`` in the prompt is dropped and the rest said word by word; after the first word ``hold``
    waits, so that there is partial text.
    """

    step_s: float = 0.0
    asked: list[str] = field(default_factory=list)
    conversations: list[Sequence[Message]] = field(default_factory=list)
    prepared: tuple[tuple[Message, ...], ...] = ()
    num_running: int = 0
    error: Exception | None = None
    release: asyncio.Event = field(default_factory=asyncio.Event)
    state: EngineState = "ready"
    activity: str = "idle"
    models: tuple[ModelInfo, ...] = (ModelInfo(id="tiny", context_len=512, vocab_size=1000),)

    async def ready(self) -> tuple[ModelInfo, ...]:
        """Return at once."""
        return self.models

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Note what was asked for."""
        self.prepared = tuple(map(tuple, conversations))

    async def check(self, request: ChatRequest) -> None:
        """Nothing is checked."""

    async def generate(
        self, request: ChatRequest, gate: Gate | None = None
    ) -> AsyncGenerator[Event]:
        """Say the last turn, a word at a time while the gate is open."""
        prompt = request.conversation[-1].content
        self.asked.append(prompt)
        self.conversations.append(request.conversation)
        self.num_running += 1
        try:
            yield Started()
            if self.error:
                raise self.error
            if prompt.startswith("fail"):
                raise EdgeLLMError("it was told to fail")
            words = prompt.removeprefix("say ").split(" ")
            for number, word in enumerate(words):
                await asyncio.sleep(self.step_s)
                if gate:
                    await gate.wait_until_open()
                yield Delta(text=f" {word}" if number else word)
                if number == 0 and prompt.startswith("hold"):
                    await self.release.wait()
            yield Done(
                finish_reason="stop",
                usage=Usage(prompt_tokens=len(words), completion_tokens=len(words)),
            )
        finally:
            self.num_running -= 1
