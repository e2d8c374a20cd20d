"""What the core knows of a request in a worker: enough to go on with it elsewhere, or to end it."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

from edge_llm.errors import ExpiredError
from edge_llm.protocol import ChatRequest, Delta, Done, Event, Started, Usage

__all__ = ["Progress", "TimeUpError"]

LATE_S = 0.1  # a worker that ends in time is heard within this; one that hangs or died is not
SHORTEST_BUDGET_S = 0.001


class TimeUpError(Exception):
    """The time budget is over, and the worker has not ended the answer."""


class Progress:
    """One request across all attempts at it.

    Args:
        request: a seed is added if it has none, so that each attempt draws the same tokens.
    """

    def __init__(self, request: ChatRequest) -> None:
        if request.seed is None:
            request = request.model_copy(update={"seed": random.getrandbits(63)})
        self._request = request
        budget_s = request.time_budget_s
        self._deadline = None if budget_s is None else time.monotonic() + budget_s
        self.token_ids: list[int] = []
        """All that were generated so far."""
        self._last: Delta | None = None
        self._has_started = self._has_said = False

    def remaining_request(self) -> ChatRequest:
        """Return the request with what is left of its time budget, as the next attempt needs it."""
        self._last = None
        if self._deadline is None:
            return self._request
        left_s = max(self._deadline - time.monotonic(), SHORTEST_BUDGET_S)
        return self._request.model_copy(update={"time_budget_s": left_s})

    @asynccontextmanager
    async def in_time(self) -> AsyncGenerator[None]:
        """Give up waiting a moment after the time budget; not for use around a yield.

        Raises:
            TimeUpError: instead of TimeoutError.
        """
        if self._deadline is None:
            yield
            return
        try:
            async with asyncio.timeout(self._deadline + LATE_S - time.monotonic()):
                yield
        except TimeoutError as exc:
            raise TimeUpError from exc

    def take(self, event: Event) -> Iterator[Event]:
        """Note an event of an attempt; yield what of it is news.

        The last text comes without a token, right before Done, and not from the tokens so far: the
        next attempt would say it again. So it counts only with Done.
        """
        match event:
            case Started():
                if not self._has_started:
                    self._has_started = True
                    yield event
            case Delta(token_ids=()) if _says(event):
                self._last = event
            case Delta():
                self.token_ids.extend(event.token_ids)
                if _says(event):
                    self._has_said = True
                    yield event.model_copy(update={"token_ids": ()})
            case Done():
                if self._last:
                    yield self._last
                yield event

    def end_late(self) -> Done:
        """Return the end of an answer whose worker is silent; no more is known of its usage.

        Raises:
            ExpiredError: nothing has been said.
        """
        if not self._has_said:
            raise ExpiredError("the time budget was over before the first sentence")
        usage = Usage(completion_tokens=len(self.token_ids))
        return Done(finish_reason="time_budget", usage=usage)


def _says(delta: Delta) -> bool:
    return bool(delta.text or delta.reasoning or delta.tool_calls or delta.logprobs)
