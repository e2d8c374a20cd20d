"""Listening: the aiohttp application, from its port being opened to its last stream being ended."""

import asyncio
import errno
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass

import aiohttp_cors
import structlog
from aiohttp import web

from bridges.http import axera, health, ollama, openai
from bridges.http import page as status_page
from bridges.http.auth import make_auth_middleware
from bridges.http.bridge import BRIDGE, Bridge
from bridges.http.conversation import KEPT, Conversations
from bridges.http.door import Door
from bridges.http.errors import error_middleware
from bridges.http.limits import make_limit_middleware
from bridges.http.metrics import METRICS, Metrics
from bridges.http.metrics import routes as metrics_routes
from bridges.http.openapi import make_endpoint as openapi_endpoint
from bridges.http.origin import make_origin_middleware
from bridges.http.request_id import add_header, name_request
from bridges.http.server_log import server_logger
from edge_llm.errors import ConfigurationError
from edge_llm.plugin import BridgeContext, BridgePlugin
from edge_llm.protocol import MAX_PAYLOAD_BYTES
from edge_llm.settings import HttpSettings

__all__ = ["PLUGIN", "HttpServer", "open_http"]

log = structlog.get_logger()

BACKLOG = 128
SHUTDOWN_TIMEOUT_S = 0.4
"""For error frames to reach their readers; aiohttp waits this long, cancels, waits once more."""


@dataclass(frozen=True, slots=True)
class HttpServer:
    """Where the bridge listens."""

    address: str
    """The IP address."""
    port: int
    """The TCP port, also where the settings left the choice to the system."""
    ollama_port: int | None = None
    """The second one, if there is one."""

    @property
    def url(self) -> str:
        """The root of all paths."""
        return f"http://{_join(self.address, self.port)}"


@asynccontextmanager
async def open_http(settings: HttpSettings, context: BridgeContext) -> AsyncGenerator[HttpServer]:
    """Serve HTTP until the context is left; what has begun may end within ``stop_timeout_s``.

    Args:
        settings: of HTTP.
        context: the node.

    Raises:
        ConfigurationError: the address can't be listened on; says which, and what to set.
    """
    async with status_page.open_page(settings, context) as page:
        engine = page.engine if page else context.engine
        bridge, door = Bridge(engine, settings, context.node), Door()
        counting = Metrics(engine, context.stats, context.node, context.monitor, context.report)
        with closing(counting) as metrics:
            app = _make_app(bridge, metrics, door, settings, page)
            async with _running(app, bridge, door, settings) as server:
                yield server


@asynccontextmanager
async def _running(
    app: web.Application, bridge: Bridge, door: Door, settings: HttpSettings
) -> AsyncGenerator[HttpServer]:
    # Without handler_cancellation, aiohttp lets handlers go on for clients that have gone.
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        access_log=None,
        logger=server_logger,
    )
    await runner.setup()
    try:
        assert runner.server
        listeners = await _listen(door.make_protocol(runner.server), settings)
        server = _described(listeners)
        log.info("http.started", address=server.address, port=server.port)
        try:
            yield server
        finally:
            if page := app.get(status_page.PAGE):
                page.stop()
            try:
                await bridge.stop(settings.stop_timeout_s)
            finally:
                _close(listeners)
                await runner.cleanup()
            log.info("http.stopped", address=server.address, port=server.port)
    finally:
        await runner.cleanup()  # does nothing the second time


def _make_app(
    bridge: Bridge,
    metrics: Metrics,
    door: Door,
    settings: HttpSettings,
    page: status_page.Page | None,
) -> web.Application:
    """Put paths together, and what each request goes through before, from the outside in."""
    app = web.Application(
        middlewares=[
            door.middleware,
            name_request,
            metrics.middleware,
            error_middleware,
            make_origin_middleware(settings.cors_origins),
            make_limit_middleware(settings.max_concurrent),
            *([status_page.serve_files] if page else []),
            make_auth_middleware(settings.key),
        ],
        client_max_size=MAX_PAYLOAD_BYTES,
    )
    app[BRIDGE], app[METRICS], app[KEPT] = bridge, metrics, Conversations()
    app.on_response_prepare.append(add_header)
    app.add_routes([*health.routes, *metrics_routes, *openai.routes])
    app.add_routes([*ollama.routes, *axera.routes])
    described = [*health.ENDPOINTS, *openai.ENDPOINTS, *ollama.ENDPOINTS, *axera.ENDPOINTS]
    if page:
        app[status_page.PAGE] = page
        app.add_routes([*status_page.routes, *status_page.file_routes])
        described += status_page.ENDPOINTS
    app.add_routes([openapi_endpoint(described, needs_key=bool(settings.key)).route])
    _allow_origins(app, settings.cors_origins)
    return app


def _allow_origins(app: web.Application, origins: Sequence[str]) -> None:
    """Let pages of these origins ask from a browser; they have no cookies here, only keys."""
    options = aiohttp_cors.ResourceOptions(
        allow_credentials=False, expose_headers="*", allow_headers="*", max_age=600
    )
    cors = aiohttp_cors.setup(app, defaults=dict.fromkeys(origins, options))
    for route in list(app.router.routes()):
        cors.add(route)


async def _listen(
    make_protocol: Callable[[], asyncio.Protocol], settings: HttpSettings
) -> list[asyncio.Server]:
    """Let connections in on one port or two."""
    listeners = [await _open(make_protocol, settings.host, settings.port, "port")]
    if settings.ollama_port is not None:
        try:
            second = await _open(make_protocol, settings.host, settings.ollama_port, "ollama_port")
        except ConfigurationError:
            _close(listeners)
            raise
        listeners.append(second)
    return listeners


def _close(listeners: Sequence[asyncio.Server]) -> None:
    for listener in listeners:
        listener.close()


def _described(listeners: Sequence[asyncio.Server]) -> HttpServer:
    names = [listener.sockets[0].getsockname() for listener in listeners]
    (address, port), *others = ((str(name[0]), int(name[1])) for name in names)
    return HttpServer(address, port, others[0][1] if others else None)


async def _open(
    make_protocol: Callable[[], asyncio.Protocol], host: str, port: int, setting: str
) -> asyncio.Server:
    variable = f"EDGE_LLM_HTTP__{setting.upper()}"
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(make_protocol, host, port, backlog=BACKLOG)
    except OSError as exc:
        where = _join(host, port)
        if exc.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"another program listens on {where}: set http.{setting} "
                f"({variable}) to a free port, or to 0 to be given one",
                param=f"http.{setting}",
            ) from exc
        raise ConfigurationError(
            f"http can't listen on {where} ({exc.strerror}): set http.host (EDGE_LLM_HTTP__HOST) "
            f"to an address of this machine, and http.{setting} ({variable}) to one above 1023",
            param="http.host",
        ) from exc


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


PLUGIN = BridgePlugin(HttpSettings, open_http)
