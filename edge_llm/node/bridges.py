"""The bridges of a node, each in a task of its own: one that fails does not take others along."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress

import structlog

from edge_llm.errors import EdgeLLMError
from edge_llm.plugin import Bridge, BridgeContext

__all__ = ["open_bridges"]

log = structlog.get_logger()

RETRY_DELAY_S = (1.0, 60.0)
"""Before a bridge that failed is opened again; doubled each time."""


@asynccontextmanager
async def open_bridges(
    bridges: Sequence[Bridge], context: BridgeContext
) -> AsyncGenerator[dict[str, object]]:
    """Open bridges, the first one first, until the context is left; give what each one gives.

    Raises:
        ConfigurationError: one can't be opened; those before it are closed again.
    """
    tasks: list[asyncio.Task[None]] = []
    given: dict[str, object] = {}
    try:
        for bridge in bridges:
            opened: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            keeping = _keep_open(bridge, context, opened)
            tasks.append(asyncio.create_task(keeping, name=f"bridge.{bridge.name}"))
            given[bridge.name] = await opened
        yield given
    finally:
        for task in reversed(tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _keep_open(
    bridge: Bridge, context: BridgeContext, opened: asyncio.Future[object]
) -> None:
    """Keep a bridge open until cancelled; what goes wrong at first is for ``opened`` to tell."""
    delay_s, longest_s = RETRY_DELAY_S
    while True:
        try:
            async with bridge.open(context) as given:
                if not opened.done():
                    opened.set_result(given)
                delay_s = RETRY_DELAY_S[0]
                await asyncio.Event().wait()
        except Exception as exc:  # noqa: BLE001 - whatever a plugin does, the node goes on
            if not opened.done():
                opened.set_exception(exc)
                return
            _complain(bridge, exc, delay_s)
        await asyncio.sleep(delay_s)
        delay_s = min(2 * delay_s, longest_s)


def _complain(bridge: Bridge, exc: Exception, retry_in_s: float) -> None:
    what = {"reason": exc.message} if isinstance(exc, EdgeLLMError) else {"exc_info": exc}
    log.error("bridge.failed", bridge=bridge.name, retry_in_s=retry_in_s, **what)
