"""Calls that may never return, in threads that nobody waits for.

A path on a network share that has gone, a name server that does not answer, a file of a driver that
hangs: such a call can't be ended. asyncio's own threads are waited for when the loop ends, and
Python's when it ends; these are not.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

__all__ = ["in_thread"]

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Call a function in a thread of its own; if this is cancelled, the call is left alone."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():  # cancelled meanwhile
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # T may be None

    def run() -> None:
        result, error = None, None
        try:
            result = function()
        except Exception as exc:  # noqa: BLE001 - it is raised where it is waited for
            error = exc
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, error)
        del error  # which has this frame in its traceback, and all that is in it would stay

    threading.Thread(target=run, name=f"doctor {function}", daemon=True).start()
    return await done
