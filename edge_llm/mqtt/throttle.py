"""Messages from paho's thread to the event loop: no more at once than the loop gets round to."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["throttle"]

MAX_UNREAD = 1000  # messages on their way
TIMEOUT_S = 5.0  # for a loop that hangs; its watchdog has the last word


def throttle(callback: Callable[..., None], loop: asyncio.AbstractEventLoop) -> Callable[..., None]:
    """Make a paho callback that makes paho wait, and TCP and the broker with it.

    Args:
        callback: passes a message on to the loop, by ``call_soon_threadsafe``.
        loop: of the receiver.
    """
    room = threading.Semaphore(MAX_UNREAD)

    def forward(*args: Any) -> None:
        room.acquire(timeout=TIMEOUT_S)
        callback(*args)
        loop.call_soon_threadsafe(room.release)  # when the loop has had the message

    return forward
