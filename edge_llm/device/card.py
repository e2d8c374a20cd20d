"""What can be done to a card that does not answer: rebooted, or its driver loaded anew."""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog

from edge_llm.protocol import RecoveryStep
from edge_llm.settings import RecoverySettings

__all__ = ["CardControl", "Rebooter"]

log = structlog.get_logger()

GRACE_S = 5.0  # for a rebooter to notice by itself that its time is over
KILL_TIMEOUT_S = 1.0
CHUNK_BYTES = 65536
MAX_OUTPUT_BYTES = 4096
MAX_LINE_CHARS = 200


class Rebooter(Protocol):
    """Reboots a card: ``AxclSmi``, where there is one."""

    @property
    def reboot_error(self) -> str | None:
        """Why the latest reboot was not done, if that is known."""
        ...

    async def reboot(self, index: int, timeout_s: float) -> bool:
        """Reboot a card, and return whether it was seen to come back in time."""
        ...


class CardControl:
    """Resets the card or its driver, one of them at a time.

    Whether that was of use shows only when a model is loaded again, so none of it raises: it
    returns whether it was done, and ``last_error`` says why not.

    Args:
        settings: what is allowed, by which program, and how long it may take.
        rebooter: what reboots the card; None if there is nothing that could.
    """

    def __init__(self, settings: RecoverySettings, rebooter: Rebooter | None = None) -> None:
        self._settings = settings
        self._rebooter = rebooter if settings.card_reboot else None
        self._is_acting = False
        self._process: Process | None = None
        self.last_error: str | None = None
        """Why the latest one was not done; None if it was."""

    @property
    def steps(self) -> tuple[RecoveryStep, ...]:
        """What is possible here, the mildest one first."""
        steps: list[RecoveryStep] = ["reboot_card"] if self._rebooter else []
        if self._settings.driver_reload:
            steps.append("reload_driver")
        return tuple(steps)

    @property
    def is_busy(self) -> bool:
        """Whether a reset is under way, or the program of one could not be killed yet."""
        hangs = self._process is not None and self._process.returncode is None
        return self._is_acting or hangs

    async def reboot(self, index: int) -> bool:
        """Reboot a card; return whether it came back.

        Args:
            index: of the card, as ``axcl-smi`` counts them, from 0.
        """
        if not self._rebooter:
            return self._fail("card.not_rebooted", "the card can't be rebooted here")
        with self._alone() as is_alone:
            if not is_alone:
                return self._fail("card.not_rebooted", "another reset is under way")
            timeout_s = self._settings.card_reboot_timeout_s
            error: str | None = f"card {index} did not come back within {timeout_s:g} s"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s + GRACE_S):
                    is_done = await self._rebooter.reboot(index, timeout_s)
                    error = None if is_done else self._rebooter.reboot_error or error
        if error:
            return self._fail("card.not_rebooted", error)
        self.last_error = None
        log.info("card.rebooted", index=index)
        return True

    async def reload_driver(self) -> bool:
        """Run the program that loads the driver anew; return whether it says that it has.

        It may only have asked somebody else to, as where it touches a file that a unit of systemd
        waits for; then the driver is loaded some seconds later.
        """
        if not self._settings.driver_reload:
            return self._fail("card.driver_not_reloaded", "there is no program for it")
        with self._alone() as is_alone:
            if not is_alone:
                return self._fail("card.driver_not_reloaded", "another reset is under way")
            error = await self._run(self._settings.driver_reload)
        if error:
            return self._fail("card.driver_not_reloaded", error)
        self.last_error = None
        log.info("card.driver_reloaded")
        return True

    def _fail(self, event: str, error: str) -> bool:
        self.last_error = error
        log.warning(event, reason=error)
        return False

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Say whether nothing else is under way, and then keep others from it."""
        if self.is_busy:
            yield False
            return
        self._is_acting = True
        try:
            yield True
        finally:
            self._is_acting = False

    async def _run(self, command: tuple[str, ...]) -> str | None:
        """Run a program to its end, or to the end of its time; return what went wrong."""
        timeout_s = self._settings.driver_reload_timeout_s
        with _reading() as (output, write_end):
            try:
                self._process = process = await asyncio.create_subprocess_exec(
                    *command, stdin=DEVNULL, stdout=write_end, stderr=write_end,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as exc:
                return f"{command[0]} can't be run: {exc.strerror or exc}"
            try:
                async with asyncio.timeout(timeout_s):
                    code = await process.wait()
            except TimeoutError:
                what = f"took longer than {timeout_s:g} s"
            else:
                what = _describe(code)
            finally:
                if process.returncode is None:
                    await _kill(process)
        if not what:
            return None
        line = _first_line(bytes(output))
        return f"{command[0]} {what}" + (f": {line}" if line else "")


async def _kill(process: Process) -> None:
    """Kill it and what it has started, which helps only if the kernel lets them go."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), KILL_TIMEOUT_S)


@contextmanager
def _reading() -> Iterator[tuple[bytearray, int]]:
    """Give the beginning of what is written to a pipe, and its end to write to.

    It is our own pipe, as asyncio waits for the end of its own before it says that a program has
    ended (Python 3.11), which a daemon that the program has started would never bring about.
    """
    loop = asyncio.get_running_loop()
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    output = bytearray()

    def read() -> None:
        with contextlib.suppress(BlockingIOError):
            chunk = os.read(read_end, CHUNK_BYTES)  # also what is not kept, or it would fill
            output.extend(chunk[: MAX_OUTPUT_BYTES - len(output)])

    loop.add_reader(read_end, read)
    try:
        yield output, write_end
    finally:
        loop.remove_reader(read_end)
        os.close(read_end)
        os.close(write_end)


def _describe(code: int) -> str:
    if code < 0:
        return f"was ended by signal {-code}"
    return f"ended with code {code}" if code else ""


def _first_line(output: bytes) -> str:
    lines = output.decode(errors="replace").splitlines()
    line = next((line.strip() for line in lines if line.strip()), "")
    return "".join(char if char.isprintable() else "?" for char in line)[:MAX_LINE_CHARS]
