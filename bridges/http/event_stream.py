"""Server-sent events that begin late, fill silence with pings, and end on a word about why.

The status can be sent only once, so it waits for the first event: an engine that refuses at once
is answered with a status of its own. But a client or proxy that hears nothing for a minute hangs
up, so after ``PING_S`` of silence (a long queue, a long prefill) the answer begins without an
event, and what goes wrong after that is one error frame, the last of the stream.
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from aiohttp import web

from bridges.http.errors import as_error, client_has_gone, error_body
from edge_llm.errors import EdgeLLMError

__all__ = ["EventStream"]

PING_S = 15.0
"""Longest silence; proxies commonly give up after 30 or 60 s."""

STALLED_S = 30.0
"""How long a client may leave its socket full before it is taken for gone: TCP itself takes a
quarter of an hour to notice a board that lost its power, and the engine would wait for it."""

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would collect the tokens and send them at the end
}


class EventStream:
    """The body of one streamed answer, as a context that ends it."""

    ping: bytes | None = b": ping\n\n"
    """What fills silence; none where the format has nothing that clients leave out."""

    def __init__(self, request: web.Request, headers: Mapping[str, str] | None = None) -> None:
        self.response = web.StreamResponse(headers={**HEADERS, **(headers or {})})
        self._request = request
        self._writing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._heard = asyncio.get_running_loop().time()
        self._pings = asyncio.create_task(self._ping(), name="http.pings")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Send an error as a frame, if it is too late for a status."""
        self._pings.cancel()
        await asyncio.wait({self._pings})
        if not isinstance(exc, Exception) or not self.response.prepared:
            return False
        if not client_has_gone(self._request):
            with suppress(ConnectionError):
                await self.send(self.describe(as_error(exc)))
        return True

    def describe(self, error: EdgeLLMError) -> Mapping[str, object]:
        """Make the last object of a stream that fails; a dialect may have its own."""
        return error_body(error)

    def frame(self, payload: Mapping[str, object] | str) -> bytes:
        """Make the bytes of one event: an object as JSON, or a bare word."""
        if not isinstance(payload, str):
            payload = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
        return f"data: {payload}\n\n".encode()

    async def send(self, payload: Mapping[str, object] | str) -> None:
        """Send one event.

        Raises:
            ConnectionError: the client has gone, or stopped reading.
        """
        await self._write(self.frame(payload))

    async def _write(self, frame: bytes) -> None:
        async with self._writing:  # two tasks write; headers must come once, and first
            try:
                async with asyncio.timeout(STALLED_S):
                    await self.response.prepare(self._request)
                    await self.response.write(frame)
            except TimeoutError as exc:
                if self._request.transport:
                    self._request.transport.abort()
                raise ConnectionResetError("the client stopped reading") from exc
        self._heard = asyncio.get_running_loop().time()

    async def _ping(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(ConnectionError):  # whoever waits for the engine is cancelled by aiohttp
            while self.ping is not None:
                await asyncio.sleep(max(0, self._heard + PING_S - loop.time()))
                if loop.time() >= self._heard + PING_S:
                    await self._write(self.ping)
