"""One worker process: started with a socket to it, and ended as gently as it lets us."""

import asyncio
import contextlib
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

__all__ = ["open_process"]

log = structlog.get_logger()

# Bytes; a delta of hundreds of tokens that must come, with what is told of 21 for each, has 1 MB.
LINE_LIMIT = 2**22


@asynccontextmanager
async def open_process(
    stop_timeout_s: float,
) -> AsyncIterator[tuple[Process, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Start a worker process, and end it on leaving, however long that takes."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "edge_llm.engine.worker.process",
            str(theirs.fileno()),
            pass_fds=[theirs.fileno()],
            stdin=DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is for us; we tell the worker
        )
    reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_LIMIT)
    try:
        yield process, reader, writer
    finally:
        writer.close()
        ending = asyncio.ensure_future(_end(process, stop_timeout_s))
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:  # a stop while a hung worker is being ended
            await ending
            raise


async def _end(process: Process, timeout_s: float) -> None:
    """Let the worker end by itself; ask; only then kill.

    Killing a process in mid-execute is the best documented way to hang the card (woolcoxm,
    Axera-AX8850-GGUF-Support), so each wait is long.
    """
    for signal_number in (None, signal.SIGTERM, signal.SIGKILL):
        if signal_number and process.returncode is None:
            log.warning("worker.signalled", signal=signal_number.name, after_s=timeout_s)
            process.send_signal(signal_number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), timeout_s)
            return
    # In a call to the kernel that does not come back; it dies when that ends.
    log.error("worker.unkillable", pid=process.pid, do="the driver holds it; see 'dmesg'")
