"""One question to an engine, with the time of each piece of its answer."""

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from edge_llm.engine import Engine
from edge_llm.errors import EngineFailedError
from edge_llm.protocol import ChatRequest, Delta, Done

__all__ = ["Answer", "ask"]


@dataclass(slots=True)
class Answer:
    """What came, and when, in seconds from the request."""

    pieces: list[tuple[float, str]] = field(default_factory=list)
    """Each with its time; reasoning counts, as it takes as long."""
    took_s: float = 0.0
    done: Done | None = None
    """None if it was stopped."""

    @property
    def ttft_s(self) -> float:
        """Until the first text; until the end if there was none."""
        return self.pieces[0][0] if self.pieces else self.took_s

    @property
    def num_tokens(self) -> int:
        """Tokens that were generated; of an answer that was stopped, the pieces that came."""
        return self.done.usage.completion_tokens if self.done else len(self.pieces)


async def ask(
    engine: Engine, request: ChatRequest, is_enough: Callable[[Answer], bool] = lambda answer: False
) -> Answer:
    """Ask, and take the times.

    Args:
        engine: that answers.
        request: the question.
        is_enough: asked after each piece; the answer is stopped when it says so.

    Raises:
        EdgeLLMError: the engine refused, or failed.
    """
    answer, begin = Answer(), time.perf_counter()
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            answer.took_s = time.perf_counter() - begin
            if isinstance(event, Delta) and (event.text or event.reasoning):
                answer.pieces.append((answer.took_s, event.text))
                if is_enough(answer):
                    return answer
            elif isinstance(event, Done):
                answer.done = event
                return answer
    raise EngineFailedError("the engine ended without an end of the answer")
