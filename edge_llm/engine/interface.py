"""What every engine offers: text in, text out."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from edge_llm.engine.gate import Gate
from edge_llm.protocol import ChatRequest, EngineState, Event, Message, ModelInfo

__all__ = ["Engine", "EngineState", "PausableEngine"]


class Engine(Protocol):
    """Generates text for one conversation at a time or for many; callers can't tell."""

    @property
    def state(self) -> EngineState:
        """What it is doing; requests are taken in any state, and wait."""
        ...

    @property
    def activity(self) -> str:
        """The state in a word for lights and people: ``idle``, ``generating``, ``loading 3/37``."""
        ...

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The models that it serves; empty while the first one loads."""
        ...

    async def ready(self) -> tuple[ModelInfo, ...]:
        """Wait until a model is loaded, and return what is served.

        Raises:
            ModelError: it can't be loaded.
        """
        ...

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Say with what conversations will begin, the most wanted beginning first.

        An engine that can keeps the KV rows of these turns at hand from now on, so that the first
        visitor waits as little as the tenth; it computes them while nobody waits. No turns at all
        stand for the settings' own system prompt. The latest call counts.
        """
        ...

    def generate(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Yield Started, then Deltas, then exactly one Done.

        An engine with a queue yields Queued before that: at once if the request must wait, and
        again whenever its position changes; never after Started.

        With a time budget each Delta is whole sentences, and the end comes in time. Whatever was
        not a whole sentence by then is left out, unless there would be nothing: the text is then
        cut at a word and ends with an ellipsis.

        Closing the generator cancels the request within one step; there is no other way to end
        it, so a stop, a client that left and a cancel all do just that.

        Raises:
            ExpiredError: instead of Done: ``ttl_s`` ended before the request's turn came, or
                ``time_budget_s`` before its first word.
            EdgeLLMError: instead of Done, at most once.
        """
        ...


class PausableEngine(Engine, Protocol):
    """An engine that a queue can stand in front of: one request can be held for another."""

    async def check(self, request: ChatRequest) -> None:
        """Say what is wrong with a request that has to wait, so that nobody waits for a refusal.

        An engine that can't tell before it begins says nothing.

        Raises:
            ContextOverflowError: as ``generate`` would.
            InvalidRequestError: as ``generate`` would.
        """
        ...

    def generate(self, request: ChatRequest, gate: Gate | None = None) -> AsyncGenerator[Event]:
        """Generate as ``Engine.generate`` says; hold within one step while the gate is closed.

        Other requests may run in between, also when the gate was closed from the beginning. The
        text does not change by that. A time budget goes on running.
        """
        ...
