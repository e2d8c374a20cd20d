"""A running node: one engine, and the doors to it that are switched on."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from bridges.http import HttpServer, open_http
from edge_llm import __version__
from edge_llm.engine import Engine, open_engine
from edge_llm.protocol import NodeInfo
from edge_llm.service import Service
from edge_llm.settings import Settings

__all__ = ["Node", "open_node"]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Node:
    """What is running."""

    engine: Engine
    http: HttpServer | None


@asynccontextmanager
async def open_node(settings: Settings) -> AsyncGenerator[Node]:
    """Serve MQTT and HTTP, as the settings say, until the context is left.

    Raises:
        ConfigurationError: a port that is taken.
        ModelError: in an ExceptionGroup, as soon as it is clear that the model can't be loaded.
    """
    log.info("node.started", node=settings.node, version=__version__, engine=settings.engine.kind)
    async with open_engine(settings.engine) as engine, AsyncExitStack() as doors:
        http = None
        if settings.http.enabled:
            http = await doors.enter_async_context(open_http(engine, settings.http, settings.node))
        if settings.mqtt.enabled:
            await doors.enter_async_context(_open_service(engine, settings))
        try:
            yield Node(engine, http)
        finally:
            log.info("node.stopping", node=settings.node)


@asynccontextmanager
async def _open_service(engine: Engine, settings: Settings) -> AsyncGenerator[None]:
    info = NodeInfo(
        node=settings.node,
        version=__version__,
        boot_id=secrets.token_hex(8),
        models=(),
        engine=settings.engine.kind,
        queue_limit=settings.engine.queue.limit,
    )
    async with asyncio.TaskGroup() as tasks:
        service = Service(engine, settings.mqtt, info)
        running = tasks.create_task(service.run(), name="service")
        try:
            yield
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
