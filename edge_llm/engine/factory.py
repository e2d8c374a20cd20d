"""Opens the engine that the settings name."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from edge_llm.engine.paced import PacedEngine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.engine.stats import EngineStats
from edge_llm.engine.upstream import open_upstream
from edge_llm.engine.worker import WorkerEngine
from edge_llm.settings import EngineSettings

__all__ = ["open_engine"]


@asynccontextmanager
async def open_engine(settings: EngineSettings) -> AsyncGenerator[QueuedEngine]:
    """Start an engine behind its queue, and stop it on leaving.

    It takes requests at once; they wait while a model loads.

    Raises:
        ModelError: inside the body, as an ExceptionGroup, if the model can't be loaded.
    """
    if settings.kind == "paced":
        yield QueuedEngine(PacedEngine(settings), settings.queue)
        return
    if settings.kind == "openai":
        async with open_upstream(settings) as upstream:
            yield QueuedEngine(upstream, settings.queue)
        return
    stats = EngineStats()
    worker = WorkerEngine(settings, stats)
    async with asyncio.TaskGroup() as tasks:
        supervisor = tasks.create_task(worker.run(), name="worker.supervisor")
        try:
            yield QueuedEngine(worker, settings.queue, stats)
        finally:
            supervisor.cancel()
