"""Has the bus measured in a process of its own, and ends that as gently as it lets us."""

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process

from pydantic import ValidationError

from edge_llm.bench.bus_order import BusAnswer, BusOrder
from edge_llm.errors import DeviceError

__all__ = ["ask_for_bus"]


async def ask_for_bus(order: BusOrder, timeout_s: float, stop_timeout_s: float) -> BusAnswer:
    """Start the process, and wait for what it says.

    Args:
        order: what to measure.
        timeout_s: how long it may take, in seconds; loading two graphs is in it.
        stop_timeout_s: how long it may take to end by itself, in seconds.

    Raises:
        DeviceError: it died, or did not answer in time.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "edge_llm.bench.bus"),
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        start_new_session=True,  # a Ctrl-C in the terminal is for us; we tell it
    )
    try:
        async with asyncio.timeout(timeout_s):
            said, _ = await process.communicate(order.model_dump_json().encode())
        return BusAnswer.model_validate_json(said)
    except TimeoutError as exc:
        raise DeviceError(f"it did not answer within {timeout_s:g} s") from exc
    except ValidationError as exc:
        raise DeviceError(f"its process ended with code {process.returncode}") from exc
    finally:
        await asyncio.shield(_end(process, stop_timeout_s))


async def _end(process: Process, timeout_s: float) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), timeout_s)
