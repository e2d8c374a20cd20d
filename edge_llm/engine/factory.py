"""Opens the engine that the settings name."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from edge_llm.device.card import CardControl
from edge_llm.engine.backed import BackedEngine
from edge_llm.engine.interface import PausableEngine
from edge_llm.engine.paced import PacedEngine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.engine.stats import EngineStats
from edge_llm.engine.upstream import open_upstream
from edge_llm.engine.worker import WorkerEngine
from edge_llm.settings import EngineSettings, RecoverySettings

__all__ = ["OpenEngine", "open_engine", "open_supervised"]


@dataclass(frozen=True, slots=True)
class OpenEngine:
    """An engine that runs.

    Attributes:
        queue: what requests go to.
        worker: the process behind it; None where something else generates.
    """

    queue: QueuedEngine
    worker: WorkerEngine | None = None


@asynccontextmanager
async def open_engine(settings: EngineSettings) -> AsyncGenerator[QueuedEngine]:
    """Start an engine behind its queue, and stop it on leaving.

    It takes requests at once; they wait while a model loads.

    Raises:
        ModelError: inside the body, as an ExceptionGroup, if the model can't be loaded.
    """
    async with open_supervised(settings) as opened:
        yield opened.queue


@asynccontextmanager
async def open_supervised(
    settings: EngineSettings,
    recovery: RecoverySettings | None = None,
    card: CardControl | None = None,
) -> AsyncGenerator[OpenEngine]:
    """As ``open_engine``, with what is done when it fails.

    Args:
        settings: of the engine.
        recovery: how often what is tried.
        card: what can be done to the card, if it runs on one.
    """
    if settings.kind == "paced":
        yield OpenEngine(QueuedEngine(PacedEngine(settings), settings.queue))
        return
    if settings.kind == "openai":
        async with open_upstream(settings) as upstream:
            yield OpenEngine(QueuedEngine(upstream, settings.queue))
        return
    stats = EngineStats()
    worker = WorkerEngine(settings, stats, recovery, card)
    engine: PausableEngine = worker
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        running = [tasks.create_task(worker.run(), name="worker.supervisor")]
        if second := settings.second():
            engine = backed = BackedEngine(worker, lambda: _open_second(second), stats)
            running.append(tasks.create_task(backed.run(), name="engine.backup"))
        try:
            yield OpenEngine(QueuedEngine(engine, settings.queue, stats), worker)
        finally:
            for task in running:
                task.cancel()


@asynccontextmanager
async def _open_second(settings: EngineSettings) -> AsyncGenerator[PausableEngine]:
    if settings.kind == "openai":
        async with open_upstream(settings) as upstream:
            yield upstream
        return
    worker = WorkerEngine(settings)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(worker.run(), name="backup.supervisor")
        try:
            yield worker
        finally:
            running.cancel()
