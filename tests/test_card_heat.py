"""A warm day of the virtual card: it is heated by what the node lets it compute.

Worker, queue, governor and the reading of the card by its tool are the real ones; the heat is a
model (``virtual_ax650/plant.py``), and a minute of it passes in a second, as all times of the
governor do. What is assumed of the card: 16 K above the room when idle, 30 K more at full load, a
time constant of three minutes.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_llm.device import health, monitor
from edge_llm.engine import governor
from edge_llm.protocol import Heat
from tests.clients import eventually
from tests.test_recovery import POEM, Rig, open_rig
from tests.virtual_ax650.card import Card
from tests.virtual_ax650.plant import Plant

IDLE_RISE, LOAD_RISE, TIME_CONSTANT_S = 16.0, 30.0, 180.0
ROOM, FULL_CELSIUS = 20.0, 94.0
NUM_CLIENTS = 3


def room(plant_s: float, rise_s: float, top: float) -> float:
    """Up, half as long at the top, down."""
    down = (2.5 * rise_s - plant_s) / rise_s
    return ROOM + (top - ROOM) * min(1.0, plant_s / rise_s, max(0.0, down))


@asynccontextmanager
async def under_load(rig: Rig) -> AsyncIterator[list[str]]:
    """Have clients ask for poems all the time; give what they have been answered."""
    answers: list[str] = []

    async def ask() -> None:
        while True:
            answers.append(await rig.ask(POEM))

    asking = [asyncio.create_task(ask()) for _ in range(NUM_CLIENTS)]
    try:
        yield answers
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def live_through(
    folder: Path,
    model: Path,
    virtual: Card,
    monkeypatch: pytest.MonkeyPatch,
    *,
    rise_s: float,
    scale: float,
) -> None:
    for name in ("UNKNOWN_AFTER_S", "RELAPSE_S", "HOT_AT_MOST_S"):
        monkeypatch.setattr(health, name, getattr(health, name) / scale)
    monkeypatch.setattr(governor, "FINISH_SENTENCE_S", governor.FINISH_SENTENCE_S / scale)
    monkeypatch.setattr(monitor, "FAST_INTERVAL_S", monitor.FAST_INTERVAL_S / scale)
    heats: list[Heat] = []
    async with open_rig(folder, model, virtual, interval_s=30.0 / scale) as rig:
        undisturbed = await rig.ask(POEM)
        await eventually(lambda: rig.governor.heat is not None)
        heats.append(rig.governor.heat or "emergency")

        def note() -> None:
            if rig.governor.heat and rig.governor.heat not in heats[-1:]:
                heats.append(rig.governor.heat)

        rig.opened.queue.stats.on_change.append(note)
        async with under_load(rig) as answers:
            busy_s, began = rig.shared.busy_s, time.monotonic()
            await asyncio.sleep(2)
            duty = (rig.shared.busy_s - busy_s) / (time.monotonic() - began)
            top = FULL_CELSIUS - IDLE_RISE - LOAD_RISE * duty
            rig.shared.celsius = ROOM + IDLE_RISE
            with Plant(
                rig.shared,
                ambient=lambda s: IDLE_RISE + room(s, rise_s, top),
                heat_k=LOAD_RISE,
                tau_s=TIME_CONSTANT_S,
                scale=scale,
            ) as plant:
                await asyncio.sleep(3.5 * rise_s / scale)
        num_answers = len(answers)
        print(
            f"full load works {duty:.0%} of the time; {top:.0f} °C in the room; at most "
            f"{plant.highest_celsius:.1f} °C, {len(heats) - 1} changes: {', '.join(heats)}; "
            f"{num_answers} answers"
        )
        assert set(answers) == {undisturbed}
        assert rig.shared["reboots"] == 0
    assert plant.highest_celsius <= 85
    assert plant.highest_celsius > 75  # it was a warm day
    assert len(heats) - 1 <= 6
    assert heats[0] == "normal"
    assert num_answers > 20


@pytest.mark.timeout(180)
async def test_a_warm_day(
    tmp_path: Path,
    card_model_dir: Path,
    card: Card,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await live_through(tmp_path, card_model_dir, card, monkeypatch, rise_s=720, scale=72)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_long_warm_day(
    tmp_path: Path,
    card_model_dir: Path,
    card: Card,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await live_through(tmp_path, card_model_dir, card, monkeypatch, rise_s=3600, scale=20)
