"""What goes wrong, one function each: it does it, undoes it where it lasts, and says when it began.

Each takes the world as it works, and returns the time on the monotonic clock from which detection
and return are measured: when the fault really happened, not when it was prepared.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from edge_llm.mqtt.backoff import SHORT_LIFE_S
from edge_llm.npu.axcl_codes import is_fatal
from tests.reliability.clocks import FACTOR
from tests.reliability.world import EngineKind, World

__all__ = ["CARD_CODES", "Fault", "NotFiredError"]

MIB = 1024 * 1024
FIRE_TIMEOUT_S = 20.0
MOST_CALLS = 200
"""A fault of the card comes at one of so many tasks: in prefill, in decode, between requests."""

DIED = frozenset({"log:recovery.step", "log:request.interrupted", "log:worker.hung"})
WITHOUT_CARD = frozenset({"log:device.unreadable", "log:device.no_card", "log:device.no_answer"})

CARD_CODES = (
    *(0x80300181, 0x80300183, 0x80300186, 0x80300187, 0x8030010B, 0x80300383),  # fatal by number
    *(0x80300105, 0x80300305, 0x80300405, 0x80300505, 0x80300705),  # timeouts
    *(0x80300508, 0x80300509, 0x8030050A, 0x80300708, 0x80300709, 0x8030070A),  # garbled messages
)
"""Fatal ones: each number of ``FATAL``, and each kind of ``FATAL_ANYWHERE`` where it was seen."""
if not all(map(is_fatal, CARD_CODES)):
    raise ValueError("one of these codes is not fatal by now")


class NotFiredError(Exception):
    """What was to go wrong did not happen."""


Inject = Callable[[World], Awaitable[float]]


@dataclass(frozen=True)
class Fault:
    """A row of the matrix.

    Attributes:
        title: what it is, for people.
        inject: does it.
        signs: by any of which the node shows that it has noticed; see ``Watch``. None where there
            is nothing to notice.
        engines: where it can happen.
        lasts_s: how long the cause lasts, in seconds.
        limit_s: until the node must be well again.
        is_fresh: the node is started anew before each injection.
        switches: of the virtual card.
        needs: what the world needs beside that: ``clock``, ``small_store``.
        is_of_load: it happens only while requests are answered.
    """

    name: str
    title: str
    inject: Inject
    signs: frozenset[str] | None = DIED
    engines: tuple[EngineKind, ...] = ("card",)
    lasts_s: float = 0.0
    limit_s: float = 120.0
    is_fresh: bool = False
    switches: Mapping[str, object] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()
    is_of_load: bool = False


# The worker


async def kill_worker(world: World) -> float:
    """SIGKILL, wherever it is."""
    pid = world.worker_pid
    at = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    return at


async def stop_worker(world: World) -> float:
    """SIGSTOP: it lives and does nothing."""
    pid = world.worker_pid
    at = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    return at


def step_is(word: str) -> Inject:
    """Have one step of the engine do something else; see ``in_worker``."""

    async def inject(world: World) -> float:
        aside = world.spoil_file.with_suffix(".new")
        aside.write_text(word)
        aside.rename(world.spoil_file)
        return await _when(lambda: not world.spoil_file.exists(), "no step was made")

    return inject


async def _when(condition: Callable[[], bool], otherwise: str) -> float:
    """Wait for something, and return when it had not happened yet: its signs come after that."""
    not_yet = time.monotonic()
    deadline = not_yet + FIRE_TIMEOUT_S
    while True:
        now = time.monotonic()
        if condition():
            return not_yet
        if now > deadline:
            raise NotFiredError(otherwise)
        not_yet = now
        await asyncio.sleep(0.002)


# The card


async def _spoil(world: World, actions: str) -> float:
    """Have one of the next tasks of the card go wrong, for once."""
    nth = world.chance.randint(1, MOST_CALLS)
    world.control.write_text(f"virtual_axcl_task:{nth}:{actions},once")
    return await _when(lambda: world.control.stat().st_size == 0, "no task came to that")


def card_fails(actions: str) -> Inject:
    """Make a fault of the virtual card."""

    async def inject(world: World) -> float:
        return await _spoil(world, actions)

    return inject


async def leak_memory(world: World) -> float:
    """Lose 400 MiB of the card's memory, some time after the model was loaded."""
    await asyncio.sleep(8.0)  # what the model left has been read by then
    at = time.monotonic()
    for _ in range(4):
        world.shared.leak(100 * MIB)
        await asyncio.sleep(0.1)
    return at


RAMP_S = 12.0


async def ramp_temperature(world: World) -> float:
    """From 40 to 90 and back to 40 °C, whatever the node does."""
    world.shared.celsius = 40.0
    await asyncio.sleep(4.0)
    at = time.monotonic()
    while (phase := (time.monotonic() - at) / RAMP_S) < 2:
        world.shared.celsius = 90 - 50 * abs(1 - phase)
        await asyncio.sleep(0.05)
    world.shared.celsius = 40.0
    return at


AWAY_S = 60.0 / FACTOR


async def start_without_card(world: World) -> float:
    """The card is dead when the node starts, no reboot helps, and comes back by itself."""
    await asyncio.to_thread(world.node.stop)
    world.state.touch()
    world.smi_control.write_text("reboot=fail reboot_s=0.5")
    at = time.monotonic()
    world.node.start()
    await asyncio.sleep(AWAY_S)
    world.reset()
    return at


# Its tool


async def _until_card_is_read(world: World) -> None:
    """Wait for a reading after the fault before, or the node has no news of the next one."""
    await world.until(lambda: world.watch.is_card_read, FIRE_TIMEOUT_S)


def tool_is(mode: str, lasts_s: float) -> Inject:
    """Make a fault of ``axcl-smi``."""

    async def inject(world: World) -> float:
        await _until_card_is_read(world)
        at = time.monotonic()
        world.smi_control.write_text(mode)
        await asyncio.sleep(lasts_s)
        world.reset()
        return at

    return inject


def tool_is_missing(lasts_s: float) -> Inject:
    """Take ``axcl-smi`` away."""

    async def inject(world: World) -> float:
        await _until_card_is_read(world)
        at = time.monotonic()
        aside = world.smi.with_suffix(".aside")
        world.smi.rename(aside)
        await asyncio.sleep(lasts_s)
        aside.rename(world.smi)
        return at

    return inject


# What is around it

BROKER_AWAY_S = 2.0
DISK_FULL_S = 4.0
RESTART_S = 15.0 / FACTOR
HOUR_S = 3600


async def stop_broker(world: World) -> float:
    """Stop it as systemd does, and start it again.

    Not as soon as the node is back from the time before: a broker that ends each connection within
    seconds is taken for one where somebody else has our client id, and is left alone for longer.
    """
    await asyncio.sleep(SHORT_LIFE_S + 1.0)
    at = time.monotonic()
    await asyncio.to_thread(world.broker.stop)
    await asyncio.sleep(BROKER_AWAY_S)
    await asyncio.to_thread(world.broker.start)
    return at


async def fill_disk(world: World) -> float:
    """Leave no byte where answers are kept."""
    at = time.monotonic()
    undo = world.fill_store()
    await asyncio.sleep(DISK_FULL_S)
    undo()
    return at


def clock_jumps(seconds: int) -> Inject:
    """Set the node's clock, as somebody with ``date`` does, or NTP after a power cut."""

    async def inject(world: World) -> float:
        if world.clock is None:
            raise RuntimeError("this world has no clock that can be set")
        at = time.monotonic()
        world.clock.jump(seconds)
        return at

    return inject


async def kill_both(world: World) -> float:
    """SIGKILL for core and worker; systemd starts the service again."""
    at = time.monotonic()
    await asyncio.to_thread(world.node.kill)
    await asyncio.sleep(RESTART_S)
    world.node.start()
    return at
