"""A core and a worker, as far as systemd sees them: what they do when they are told to is real.

The core tells systemd how it is by the product's own ``Notifier``; the worker ends when its line to
the core breaks, after the step that it is in. The environment says what goes wrong.
"""

import asyncio
import os
import signal
import sys
import time

from edge_llm.systemd import Notifier

STEP_S = float(os.environ.get("STEP_S", "0"))
HANG_AFTER_S = float(os.environ.get("HANG_AFTER_S", "0"))


def say(text: str) -> None:
    print(text, flush=True)


def hang() -> None:
    time.sleep(1000)


async def core() -> None:
    say("core: begins")
    if "CRASH" in os.environ:
        sys.exit(1)
    theirs, ours = os.pipe()
    command = [sys.executable, __file__, "worker", str(theirs)]
    worker = await asyncio.create_subprocess_exec(
        *command, pass_fds=[theirs], start_new_session=True
    )
    os.close(theirs)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if "DEAF" in os.environ else stop.set)
    if HANG_AFTER_S:
        loop.call_later(HANG_AFTER_S, hang)
    notifier = Notifier(is_ready=lambda: True, status=lambda: "serving", is_alive=lambda: None)
    running = asyncio.create_task(notifier.run())
    await stop.wait()
    running.cancel()
    os.close(ours)
    await worker.wait()


def worker(line: int) -> None:
    say("worker: begins")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.read(line, 1)
    time.sleep(STEP_S)
    say("worker: ends its step")


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        worker(int(sys.argv[2]))
    else:
        asyncio.run(core())
