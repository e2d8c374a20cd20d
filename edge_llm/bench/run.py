"""A run: the machine as it is, the engine as the service opens it, and then the bus."""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from edge_llm import __version__
from edge_llm.bench.bus_process import ask_for_bus
from edge_llm.bench.holders import find_workers
from edge_llm.bench.plan import Plan
from edge_llm.bench.reference import compare_with_published
from edge_llm.bench.report import Bus, Report
from edge_llm.bench.speed import (
    measure_budget,
    measure_decode,
    measure_first_sentence,
    measure_prefill,
)
from edge_llm.bench.surroundings import caveats_of, conditions, read_machine
from edge_llm.bench.target import Target, open_target
from edge_llm.device import DeviceMonitor
from edge_llm.device.reading import Reading
from edge_llm.engine import open_engine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.errors import DeviceError
from edge_llm.protocol import ModelInfo
from edge_llm.settings import BackupSettings, EngineSettings, Settings

__all__ = ["run_bench"]

Say = Callable[[str], None]
"""Told what is being done, a few words at a time."""

QUIET_S = 1.0
"""Over which the load before the run is taken."""
POLL_S = 0.2
SIMULATED = "virtual"
"""Stands in the version of a simulated card's firmware."""
BUS_TIMEOUT_S = 60.0
"""For the copies, beside what two graphs may take to load."""


async def run_bench(settings: Settings, plan: Plan, say: Say) -> Report:
    """Measure the engine that the settings name, on this machine, while nobody else uses it.

    Args:
        settings: as the service has them; no broker is asked.
        plan: how much to measure.
        say: told what is being done.

    Raises:
        DeviceError: the card is in use, or failed.
        ModelError: the model can't be loaded.
        EngineFailedError: the engine says nothing that could be measured.
    """
    # A second engine that steps in would be measured for the first one.
    engine = settings.engine.model_copy(update={"backup": BackupSettings()})
    target, monitor = open_target(engine), DeviceMonitor(settings.device)
    say("looking at the machine")
    taken_at, reading = datetime.now(UTC), await _read_quietly(monitor)
    target.refuse_if_in_use(reading.cards)
    caveats = list(_caveats_of(target))
    before = conditions(reading, target.device)
    begin = time.perf_counter()
    async with open_engine(engine) as queue:
        info = await _load(queue, say)
        load_s = time.perf_counter() - begin
        prefill, too_long = await measure_prefill(queue, plan, info.context_len, say)
        decode = await measure_decode(queue, plan, say)
        first = await measure_first_sentence(queue, plan, say)
        budget = await measure_budget(queue, plan, decode, first, say)
        after = conditions(await monitor.read(), target.device)
        caveats += _caveats_of_run(too_long, queue.stats.counts().restarts)
        say("giving the device free")
    bus, bus_note = await _measure_bus(target, info, say)
    simulated = _is_simulated(bus, reading, target.device)
    if simulated:
        caveats.insert(0, "The card is a simulated one: no speed here is that of a real card.")
    caveats += caveats_of(before, after, settings.device.thermal.hot_celsius)
    model = target.model(info)
    return Report(
        version=__version__,
        taken_at=taken_at.isoformat(timespec="seconds"),
        plan=plan.name,
        simulated=simulated,
        machine=read_machine(),
        model=model,
        before=before,
        after=after,
        load_s=load_s,
        prefill=prefill,
        decode=decode,
        bus=bus,
        bus_note=bus_note,
        first_sentence=first,
        budget=budget,
        published=compare_with_published(model, load_s, prefill, decode),
        caveats=tuple(caveats),
    )


async def _read_quietly(monitor: DeviceMonitor) -> Reading:
    """Read host and cards, the host's load being that of the second before."""
    await monitor.read()
    await asyncio.sleep(QUIET_S)
    return await monitor.read()


async def _load(queue: QueuedEngine, say: Say) -> ModelInfo:
    """Wait until the model is loaded; the first failure ends it, as there is nobody to wait for.

    Raises:
        DeviceError: the worker failed.
    """
    loading = asyncio.ensure_future(queue.ready())
    try:
        while not loading.done():
            say(queue.activity)
            await asyncio.wait({loading}, timeout=POLL_S)
            if fault := queue.stats.fault():
                raise DeviceError(fault.message)
        (info, *_) = loading.result()
    finally:
        loading.cancel()
    return info


async def _measure_bus(target: Target, info: ModelInfo, say: Say) -> tuple[Bus | None, str | None]:
    """Return what was measured, or why it was not; it is no reason to lose the rest."""
    order = target.bus_order(info)
    if isinstance(order, str):
        return None, order
    say("the card's bus")
    worker = target.settings.worker
    try:
        answer = await ask_for_bus(
            order, BUS_TIMEOUT_S + 2 * worker.load_timeout_s, worker.stop_timeout_s
        )
    except DeviceError as exc:
        return None, f"not measured: {exc.message}"
    return answer.bus, f"not measured: {answer.error}" if answer.error else None


def _is_simulated(bus: Bus | None, reading: Reading, device: int | None) -> bool:
    cards = reading.cards.cards if reading.cards and device is not None else ()
    firmwares = [card.firmware for card in cards if card.index == device]
    firmwares += [bus.firmware] if bus else []
    return any(SIMULATED in (firmware or "") for firmware in firmwares)


def _caveats_of(target: Target) -> Iterator[str]:
    """Say what is known before the run."""
    settings: EngineSettings = target.settings
    if settings.kind == "paced":
        yield "The engine is paced: its speeds are those of the settings."
    if settings.kind == "openai":
        yield "Another server generates: the network, and what else that server does, are in it."
    if target.device is None and (workers := find_workers()):
        who = ", ".join(str(worker) for worker in workers)
        yield f"While this was measured there was also {who}, which may have had work to do."


def _caveats_of_run(too_long: tuple[int, ...], num_restarts: int) -> Iterator[str]:
    if too_long:
        lengths = " and ".join(str(length) for length in too_long)
        yield f"There was no time to measure prompts of {lengths} tokens."
    if num_restarts:
        yield f"The worker failed in the run and was replaced, {num_restarts} times."
