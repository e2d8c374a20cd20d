"""What every engine offers: text in, text out."""

from collections.abc import AsyncGenerator
from typing import Literal, Protocol

from edge_llm.protocol import ChatRequest, Event, ModelInfo

__all__ = ["Engine", "EngineState"]

EngineState = Literal["loading", "ready", "restarting"]


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

    def generate(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Yield Started, then Deltas, then exactly one Done.

        Closing the generator cancels the request within one step; there is no other way to end
        it, so a stop, a client that left and a cancel all do just that.

        Raises:
            EdgeLLMError: instead of Done, at most once.
        """
        ...
