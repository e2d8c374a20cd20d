"""A cancellation that was swallowed, noticed after all.

``asyncio.wait_for`` of Python 3.11 forgets that its task was cancelled if what it waited for comes
at the same moment (python/cpython#86296), and every request of nats-py goes through it.
"""

import asyncio

__all__ = ["end_if_cancelled"]


def end_if_cancelled() -> None:
    """Raise what was swallowed, if the task was cancelled; for loops, after a request.

    Raises:
        asyncio.CancelledError: the task was told to end.
    """
    if (task := asyncio.current_task()) and task.cancelling():
        raise asyncio.CancelledError
