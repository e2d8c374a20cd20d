"""Gate: lets a request go on, or holds it between two of its steps while another one runs."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Gate"]


class Gate:
    """Open at first. The queue opens and closes it, the engine that generates heeds it."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._opened.set()
        self._watchers: list[Callable[[], None]] = []
        self._closed_at = 0.0
        self._closed_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the request may go on."""
        return self._opened.is_set()

    @property
    def closed_s(self) -> float:
        """How long it has been closed, all in all, in seconds."""
        now = 0.0 if self.is_open else time.monotonic() - self._closed_at
        return self._closed_s + now

    def close(self) -> None:
        """Hold the request before its next step."""
        if self.is_open:
            self._closed_at = time.monotonic()
            self._opened.clear()
            for watcher in tuple(self._watchers):
                watcher()

    def open(self) -> None:
        """Let the request go on."""
        self._closed_s = self.closed_s
        self._opened.set()

    async def wait_until_open(self) -> None:
        """Return at once if it is open."""
        await self._opened.wait()

    @contextmanager
    def watched(self, on_close: Callable[[], None]) -> Iterator[None]:
        """Have a function called when the gate closes: whoever generates may be busy telling."""
        self._watchers.append(on_close)
        try:
            yield
        finally:
            self._watchers.remove(on_close)
