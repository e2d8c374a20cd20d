"""A running node: one engine, the doors to it that are switched on, and what it may be told."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import structlog

from bridges.http import HttpServer, open_http
from edge_llm import __version__
from edge_llm.device import DeviceMonitor
from edge_llm.engine import Engine, open_engine
from edge_llm.errors import ConfigurationError, InvalidRequestError
from edge_llm.preset import Presets
from edge_llm.protocol import NodeInfo
from edge_llm.service import Rules, Service
from edge_llm.settings import Settings
from edge_llm.store import Store, open_store

__all__ = ["Node", "open_node"]

log = structlog.get_logger()


class Node:
    """What is running.

    Args:
        settings: as it was started with.
        load: reads the settings anew.
        engine: generates.
        http: where HTTP is served, if it is.
        service: the MQTT front end, if there is one.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Settings],
        engine: Engine,
        http: HttpServer | None,
    ) -> None:
        self.engine = engine
        self.http = http
        self.service: Service | None = None
        self._settings = settings
        self._load = load

    def reload(self) -> None:
        """Take presets, routes and limits from the settings file as it is now.

        A file that is wrong changes nothing; it is logged, and told on the node's error topic.
        """
        try:
            settings = self._load()
        except ConfigurationError as exc:
            log.error("settings.refused", reason=exc.message, do="mend the file and reload again")
            if self.service:
                self.service.complain(exc)
            return
        if self.service:
            self.service.follow(rules_of(settings))
        restart = [
            name
            for name in Settings.model_fields
            if _static(settings, name) != _static(self._settings, name)
        ]
        log.info(
            "settings.reloaded",
            presets=len(settings.preset),
            routes=len(settings.route),
            **({"changed_after_restart_only": restart} if restart else {}),
        )

    def command(self, name: str) -> None:
        """Do what was published on the command topic.

        Raises:
            InvalidRequestError: there is no such command.
        """
        if name != "reload":
            raise InvalidRequestError(f"there is no command {name!r} (there is: reload)")
        self.reload()


def rules_of(settings: Settings) -> Rules:
    """Return the part of the settings that may change while a node runs."""
    presets = Presets(settings.preset, settings.default_preset)
    return Rules(presets, settings.route, settings.mqtt.client)


def _static(settings: Settings, name: str) -> object:
    """Return a part of the settings without what a reload changes."""
    if name in ("preset", "default_preset", "route"):
        return None
    value = getattr(settings, name)
    return value.model_copy(update={"client": ()}) if name == "mqtt" else value


@asynccontextmanager
async def open_node(
    settings: Settings, load: Callable[[], Settings] | None = None, *, store: Path | None = None
) -> AsyncGenerator[Node]:
    """Serve MQTT and HTTP, as the settings say, until the context is left.

    Args:
        settings: as read at the start.
        load: reads them anew, for ``reload``.
        store: the file of what outlives a restart; memory only if not given.

    Raises:
        ConfigurationError: a port that is taken, or a store that can't be written.
        ModelError: in an ExceptionGroup, as soon as it is clear that the model can't be loaded.
    """
    log.info("node.started", node=settings.node, version=__version__, engine=settings.engine.kind)
    async with open_engine(settings.engine) as engine, AsyncExitStack() as doors:
        http = None
        if settings.http.enabled:
            monitor = await doors.enter_async_context(_open_monitor(settings))
            http = await doors.enter_async_context(
                open_http(engine, settings.http, settings.node, engine.stats, monitor)
            )
        node = Node(settings, load or (lambda: settings), engine, http)
        if settings.mqtt.enabled:
            kept = doors.enter_context(open_store(store, settings.store, settings.session))
            await doors.enter_async_context(_open_service(node, settings, kept))
        try:
            yield node
        finally:
            log.info("node.stopping", node=settings.node)


@asynccontextmanager
async def _open_monitor(settings: Settings) -> AsyncGenerator[DeviceMonitor]:
    monitor = DeviceMonitor(settings.device)
    running = asyncio.create_task(monitor.run(), name="device.monitor")
    try:
        yield monitor
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@asynccontextmanager
async def _open_service(node: Node, settings: Settings, store: Store) -> AsyncGenerator[None]:
    info = NodeInfo(
        node=settings.node,
        version=__version__,
        boot_id=secrets.token_hex(8),
        models=(),
        engine=settings.engine.kind,
        queue_limit=settings.engine.queue.limit,
    )
    async with asyncio.TaskGroup() as tasks:
        node.service = Service(
            node.engine,
            settings.mqtt,
            info,
            store,
            rules=rules_of(settings),
            on_command=node.command,
        )
        running = tasks.create_task(node.service.run(), name="service")
        try:
            yield
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
