"""A fixed text at a set speed: to rehearse an installation before its hardware has come.

This is a simulation and says so (``models`` names it ``paced``): a token is a word with the space
before it, and the time to the first token does not depend on the length of the prompt.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence

from edge_llm.engine.gate import Gate
from edge_llm.engine.interface import EngineState
from edge_llm.engine.time_budget import Speed, TimeBudget
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Event,
    FinishReason,
    Message,
    ModelInfo,
    Started,
    Timing,
    Usage,
)
from edge_llm.settings import EngineSettings

__all__ = ["PacedEngine"]

CONTEXT_LEN = 4096  # only told, not enforced: no prompt is ever read


class PacedEngine:
    """Says ``settings.paced.text`` to everyone, at ``ttft_s`` and ``tokens_per_s``."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._tokens = re.findall(r"\s*\S+", settings.paced.text)
        self._speed = Speed()
        self.models = (
            ModelInfo(
                id="paced",
                context_len=CONTEXT_LEN,
                vocab_size=len(set(self._tokens)),
                max_tokens=settings.max_tokens,
            ),
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

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Do nothing; see ``Engine.prepare``."""

    async def check(self, request: ChatRequest) -> None:
        """Find nothing wrong; see ``PausableEngine.check``."""

    async def generate(
        self, request: ChatRequest, gate: Gate | None = None
    ) -> AsyncGenerator[Event]:
        """Speak the text; see ``PausableEngine.generate``.

        Raises:
            ExpiredError: the time budget was over before the first word.
        """
        budget = None
        if request.time_budget_s is not None:
            budget = TimeBudget(request.time_budget_s, self._speed)
        yield Started()
        spoken = ""
        reason: FinishReason | None = None
        num_spoken = 0
        while reason is None:
            if not await self._step(num_spoken == 0, gate, budget):
                reason = "time_budget"
                break
            token = self._tokens[num_spoken]
            num_spoken += 1
            spoken += token
            if text := budget.add(token) if budget else token:
                yield Delta(text=text)
            reason = self._finish_reason(request, num_spoken, spoken, budget)
        if budget and (rest := budget.finish(reason)):
            yield Delta(text=rest)
        yield Done(
            finish_reason=reason,
            usage=Usage(
                prompt_tokens=sum(len(m.content.split()) for m in request.conversation),
                completion_tokens=num_spoken,
            ),
            timing=Timing(tokens_per_s=budget.tokens_per_s if budget else None),
        )

    async def _step(self, is_first: bool, gate: Gate | None, budget: TimeBudget | None) -> bool:
        """Take the time of a token, and that while the gate is closed; no more than there is."""
        paced = self._settings.paced
        try:
            async with asyncio.timeout(budget.left_s if budget else None):
                await asyncio.sleep(paced.ttft_s if is_first else 1 / paced.tokens_per_s)
                if budget:
                    budget.tick()
                if gate and not gate.is_open:
                    await gate.wait_until_open()
                    if budget:
                        budget.skip()
        except TimeoutError:
            return False
        return True

    def _finish_reason(
        self, request: ChatRequest, num_spoken: int, spoken: str, budget: TimeBudget | None
    ) -> FinishReason | None:
        if request.max_bytes is not None and len(spoken.encode()) > request.max_bytes:
            return "length"
        if num_spoken == len(self._tokens):
            return "stop"
        if num_spoken >= (request.max_tokens or self._settings.max_tokens):
            return "length"
        return "time_budget" if budget and budget.is_over() else None
