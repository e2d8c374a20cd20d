"""A fixed text at a set speed: to rehearse an installation before its hardware has come.

This is a simulation and says so (``models`` names it ``paced``): a token is a word with the space
before it, and the time to the first token does not depend on the length of the prompt.
"""

import asyncio
import re
from collections.abc import AsyncGenerator

from edge_llm.engine.interface import EngineState
from edge_llm.protocol import ChatRequest, Delta, Done, Event, ModelInfo, Started, Usage
from edge_llm.settings import EngineSettings

__all__ = ["PacedEngine"]

CONTEXT_LEN = 4096  # only told, not enforced: no prompt is ever read


class PacedEngine:
    """Says ``settings.paced.text`` to everyone, at ``ttft_s`` and ``tokens_per_s``."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._tokens = re.findall(r"\s*\S+", settings.paced.text)
        self.models = (
            ModelInfo(id="paced", context_len=CONTEXT_LEN, vocab_size=len(set(self._tokens))),
        )

    @property
    def state(self) -> EngineState:
        """Always ready."""
        return "ready"

    @property
    def activity(self) -> str:
        """Always idle; see ``Engine.activity``."""
        return "idle"

    async def ready(self) -> tuple[ModelInfo, ...]:
        """Return at once; see ``Engine.ready``."""
        return self.models

    async def generate(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Speak the text; see ``Engine.generate``."""
        paced = self._settings.paced
        yield Started()
        limit = request.max_tokens or self._settings.max_tokens
        spoken = self._tokens[:limit]
        for num_spoken, token in enumerate(spoken):
            await asyncio.sleep(paced.ttft_s if num_spoken == 0 else 1 / paced.tokens_per_s)
            yield Delta(text=token)
        yield Done(
            finish_reason="stop" if len(spoken) == len(self._tokens) else "length",
            usage=Usage(
                prompt_tokens=sum(len(m.content.split()) for m in request.conversation),
                completion_tokens=len(spoken),
            ),
        )
