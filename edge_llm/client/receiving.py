"""A connection to a broker, and the task that takes what comes in by it."""

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress
from types import TracebackType
from typing import Self

from edge_llm.mqtt import MqttConnection

__all__ = ["Receiving"]


class Receiving(ABC):
    """Connected, and listening, until the context is left."""

    _mqtt: MqttConnection

    async def __aenter__(self) -> Self:
        await self._mqtt.__aenter__()
        self._receiver = asyncio.create_task(self._receive(), name="client.receiver")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._receiver.cancel()
        with suppress(asyncio.CancelledError):
            await self._receiver
        await self._mqtt.__aexit__(exc_type, exc, traceback)

    @abstractmethod
    async def _receive(self) -> None:
        """Take what comes in, for ever."""
