"""From settings to a running node: what is opened, in which order, and closed in the reverse."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import structlog

from edge_llm import __version__
from edge_llm.device import DeviceMonitor
from edge_llm.device.card import CardControl
from edge_llm.engine import OpenEngine, open_supervised
from edge_llm.engine.governor import Governor
from edge_llm.engine.worker.recovery import uses_card
from edge_llm.fleet import FleetNames, FleetSource
from edge_llm.health import HealthReporter
from edge_llm.log import log_exposures
from edge_llm.node.bridges import open_bridges
from edge_llm.node.commands import Commands
from edge_llm.node.desk import NodeDesk
from edge_llm.node.node import Node, rules_of
from edge_llm.plugin import BridgeContext, find_bridges
from edge_llm.protocol import NodeInfo
from edge_llm.service import Service
from edge_llm.settings import Settings
from edge_llm.store import Store, open_store

__all__ = ["open_node"]

log = structlog.get_logger()


@asynccontextmanager
async def open_node(
    settings: Settings, load: Callable[[], Settings] | None = None, *, store: Path | None = None
) -> AsyncGenerator[Node]:
    """Serve MQTT, and open the bridges that the settings name, until the context is left.

    Args:
        settings: as read at the start.
        load: reads them anew, for ``reload``.
        store: the file of what outlives a restart; memory only if not given.

    Raises:
        ConfigurationError: a port that is taken, a store that can't be written, or a bridge that is
            not installed.
        ModelError: in an ExceptionGroup, as soon as it is clear that the model can't be loaded.
    """
    log.info("node.started", node=settings.node, version=__version__, engine=settings.engine.kind)
    log_exposures(settings)
    bridges = find_bridges(settings)
    async with AsyncExitStack() as doors:
        monitor = await doors.enter_async_context(_open_monitor(settings))
        card = _card(settings, monitor)
        opened = await doors.enter_async_context(
            open_supervised(settings.engine, settings.recovery, card)
        )
        governor = None
        if card and opened.worker:
            governor = doors.enter_context(_govern(settings, opened, monitor))
        reporter = HealthReporter(
            settings.node,
            secrets.token_hex(8),
            opened.queue,
            monitor,
            governor=governor,
            index=settings.engine.worker.device,
        )
        node = Node(settings, load or (lambda: settings), opened)
        context = BridgeContext(
            node=settings.node,
            engine=opened.queue,
            mqtt=settings.mqtt,
            presets=lambda: node.presets,
            report=reporter.report,
            stats=opened.queue.stats,
            monitor=monitor,
            is_in_fleet=bool(settings.fleet.servers),
        )
        node.bridges = await doors.enter_async_context(open_bridges(bridges, context))
        if settings.mqtt.enabled:
            commands = Commands(
                opened, node.reload, has_card=card is not None, allowed=settings.mqtt.commands
            )
            kept = doors.enter_context(open_store(store, settings.store, settings.session))
            node.service = await doors.enter_async_context(
                _open_service(settings, opened, kept, commands, reporter)
            )
        try:
            yield node
        finally:
            log.info("node.stopping", node=settings.node)


def _card(settings: Settings, monitor: DeviceMonitor) -> CardControl | None:
    """Return what can be done to the card, if we run on one."""
    is_ours = settings.engine.kind == "worker" and uses_card(settings.engine.worker)
    return CardControl(settings.recovery, monitor.smi) if is_ours else None


@contextmanager
def _govern(settings: Settings, opened: OpenEngine, monitor: DeviceMonitor) -> Iterator[Governor]:
    assert opened.worker
    governor = Governor(
        opened.queue, opened.worker, monitor, settings.device, settings.engine.worker.device
    )
    try:
        yield governor
    finally:
        governor.close()


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
async def _open_service(
    settings: Settings,
    opened: OpenEngine,
    store: Store,
    commands: Commands,
    reporter: HealthReporter,
) -> AsyncGenerator[Service]:
    info = NodeInfo(
        node=settings.node,
        version=__version__,
        boot_id=reporter.boot_id,
        models=(),
        engine=settings.engine.kind,
        queue_limit=settings.engine.queue.limit,
    )
    source = None
    if settings.fleet.servers:
        source = FleetSource(settings.fleet, FleetNames(settings.mqtt.prefix), settings.node)
    async with asyncio.TaskGroup() as tasks:
        service = Service(
            opened.queue,
            settings.mqtt,
            info,
            store,
            rules=rules_of(settings),
            on_command=commands.run,
            report=reporter.report,
            source=source,
        )
        stats = opened.queue.stats
        if source:
            source.serve(NodeDesk(opened.queue, service, store.sessions))
            reporter.fleet = lambda: source.health
            source.on_change.append(service.tell)
            stats.watchers.append(lambda _: source.wake())
            stats.on_change.append(source.wake)
        stats.on_change.append(service.tell)
        running = tasks.create_task(service.run(), name="service")
        try:
            yield service
        finally:
            stats.on_change.remove(service.tell)
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
