"""Who may come in: so many connections, and only those that soon say what they want.

aiohttp waits for the first request of a connection for ever, and for any number of connections;
each holds a file descriptor, of which the process has 1024 for everything that it does.
"""

import asyncio
from collections.abc import Callable
from weakref import ReferenceType, WeakKeyDictionary, ref

from aiohttp import web
from aiohttp.typedefs import Handler

__all__ = ["Door"]

MAX_CONNECTIONS = 512
"""Twice as many as may ask at a time (``http.max_concurrent``): browsers keep some in reserve."""

FIRST_REQUEST_TIMEOUT_S = 15.0
"""For the headers of the first request; after an answer aiohttp waits 75 s for the next."""

FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class Door:
    """Counts those who are inside, and waits for what they say."""

    def __init__(self) -> None:
        # Until when each may be silent; those that have gone are not kept for it.
        self._silent: WeakKeyDictionary[asyncio.BaseTransport, asyncio.TimerHandle] = (
            WeakKeyDictionary()
        )

    def make_protocol(self, server: web.Server) -> Callable[[], asyncio.Protocol]:
        """Make what ``create_server`` takes."""
        return lambda: _Knock(server, self._let_in)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note that a connection has said something."""
        if request.transport and (due := self._silent.pop(request.transport, None)):
            due.cancel()
        return await handler(request)

    def _let_in(self, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        self._silent[transport] = loop.call_later(
            FIRST_REQUEST_TIMEOUT_S, _send_away, ref(transport)
        )


class _Knock(asyncio.Protocol):
    def __init__(self, server: web.Server, let_in: Callable[[asyncio.Transport], None]) -> None:
        self._server = server
        self._let_in = let_in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if len(self._server.connections) >= MAX_CONNECTIONS:
            transport.write(FULL)
            transport.close()
            return
        inside = self._server()
        transport.set_protocol(inside)
        inside.connection_made(transport)
        self._let_in(transport)


def _send_away(silent: "ReferenceType[asyncio.Transport]") -> None:
    if transport := silent():
        transport.abort()
