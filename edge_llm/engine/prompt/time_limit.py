"""An end for what may not end by itself: the chat template of a model that somebody downloaded."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["time_limit"]


@contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """Break off what runs inside after so many seconds.

    It works in a process's main thread, which is where a worker runs its model; elsewhere nothing
    is limited. Python code is broken off between two of its steps, a call of C code when it ends.

    Raises:
        TimeoutError: inside.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_inside = True

    def break_off(_signal: int, _frame: FrameType | None) -> None:
        if is_inside:
            raise TimeoutError(f"it took longer than {limit_s:g} s")

    handler_before = signal.signal(signal.SIGALRM, break_off)
    begun = time.monotonic()
    left_s, interval_s = signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        is_inside = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler_before)
        if left_s:  # somebody else's alarm, which is due all the same
            left_s = max(left_s - (time.monotonic() - begun), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, left_s, interval_s)
