"""The times of one request, and the end of its patience."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from edge_llm.errors import ExpiredError
from edge_llm.protocol import ChatRequest, Delta, Event, Started, Timing

__all__ = ["RequestClock"]


@dataclass(slots=True)
class RequestClock:
    """The times of one request, in seconds of the monotonic clock."""

    accepted: float = field(default_factory=time.monotonic)
    started: float | None = None
    first_text: float | None = None
    decoding_from: float | None = None  # these two without the time in which it was paused
    decoding_to: float | None = None

    def note(self, event: Event, paused_s: float) -> None:
        """Take the time of an event.

        Args:
            event: what happened now.
            paused_s: how long the request has been paused, all in all.
        """
        now = time.monotonic()
        match event:
            case Started():
                self.started = now
            case Delta():
                if self.first_text is None:
                    self.first_text, self.decoding_from = now, now - paused_s
                self.decoding_to = now - paused_s

    def timing(self, completion_tokens: int = 0) -> Timing:
        """Return all times as they are now."""
        now = time.monotonic()
        speed = None
        if self.decoding_from and self.decoding_to and self.decoding_to > self.decoding_from:
            speed = round((completion_tokens - 1) / (self.decoding_to - self.decoding_from), 2)
        return Timing(
            queue_s=round((self.started or now) - self.accepted, 4),
            ttft_s=round(self.first_text - self.accepted, 4) if self.first_text else None,
            total_s=round(now - self.accepted, 4),
            tokens_per_s=speed if completion_tokens > 1 else None,
        )

    @asynccontextmanager
    async def in_time(self, request: ChatRequest) -> AsyncGenerator[None]:
        """Give up what keeps a request waiting longer than it may; not for use around a yield.

        Raises:
            ExpiredError: it has waited for as long as it may.
        """
        limits = [s for s in (request.ttl_s, request.time_budget_s) if s is not None]
        if not limits:
            yield
            return
        try:
            async with asyncio.timeout(min(limits) - (time.monotonic() - self.accepted)):
                yield
        except TimeoutError as exc:
            raise ExpiredError(
                f"the request waited for {min(limits)} s and its turn did not come"
            ) from exc
