"""Text in, text out: the Engine interface, and the factory that opens the one in the settings."""

from collections.abc import AsyncGenerator
from typing import Literal, Protocol

from edge_llm.protocol import ChatRequest, Event, ModelInfo

__all__ = ["Engine", "EngineState"]

EngineState = Literal["loading", "ready", "restarting", "stopped"]


class Engine(Protocol):
    """Generates text for one conversation at a time or for many; callers can't tell."""

    @property
    def state(self) -> EngineState:
        """What it is doing; requests are taken in any state but ``stopped``, and wait."""
        ...

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The models that it serves; empty while the first one loads."""
        ...

    def generate(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Yield Started, then Deltas, then exactly one Done.

        Closing the generator cancels the request within one step.

        Raises:
            EdgeLLMError: instead of Done, at most once.
        """
        ...
