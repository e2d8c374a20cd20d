"""The card fails, and what it was asked is answered all the same."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_llm.device import DeviceMonitor
from edge_llm.device.card import CardControl
from edge_llm.engine import OpenEngine, open_supervised
from edge_llm.engine.governor import Governor
from edge_llm.errors import DeviceUnavailableError, EdgeLLMError
from edge_llm.health import HealthReporter
from edge_llm.protocol import NodeHealth, RecoveryStep
from edge_llm.settings import (
    BackupSettings,
    DeviceSettings,
    EngineSettings,
    RecoverySettings,
    WorkerSettings,
)
from tests.clients import eventually
from tests.test_card_service import answer
from tests.virtual_ax650.card import Card
from tests.virtual_ax650.shared import Shared
from tests.virtual_ax650.smi import write_smi

pytestmark = pytest.mark.timeout(180)

POEM = "Tell me a poem about the sea."


@dataclass
class Rig:
    """A worker on a virtual card, with all that watches over it."""

    folder: Path
    shared: Shared
    opened: OpenEngine
    monitor: DeviceMonitor
    governor: Governor
    reporter: HealthReporter
    steps: list[RecoveryStep]

    def inject(self, faults: str) -> None:
        (self.folder / "control").write_text(faults + "\n")

    def tool(self, words: str) -> None:
        (self.folder / "axcl-smi.control").write_text(words)

    def health(self) -> NodeHealth:
        return self.reporter.report()

    async def ask_through(self, faults: str, *turns: str) -> str:
        """Ask while something goes wrong, once: a new process would find the same file."""
        asked = asyncio.ensure_future(self.ask(*turns))
        self.inject(faults)
        await eventually(lambda: asked.done() or self.health().state != "ready", 20)
        self.inject("")
        return await asked

    async def ask(self, *turns: str, **fields: Any) -> str:
        text, _ = await answer(self.opened.queue, *turns, **fields)
        return text


@contextlib.asynccontextmanager
async def open_rig(
    folder: Path,
    model: Path,
    card: Card,
    *,
    recovery: dict[str, Any] | None = None,
    backup: BackupSettings | None = None,
    interval_s: float = 0.1,
    **worker: Any,
) -> AsyncIterator[Rig]:
    write_smi(folder, card)
    quick = {
        "interval_s": 0.2,
        "settle_s": 0.0,
        "retry_after_s": 1.0,
        "keepalive_s": 30.0,
        "max_per_hour": 1000,
    }
    settings = RecoverySettings().model_copy(update=quick | (recovery or {}))
    device = DeviceSettings(axcl_smi=folder / "axcl-smi").model_copy(
        update={"interval_s": interval_s, "timeout_s": 2.0}
    )
    engine = EngineSettings(
        worker=WorkerSettings(
            model=model,
            axcl_library=card.path,
            restart_delay_s=0,
            stop_timeout_s=1,
            self_test=False,
            **worker,
        ),
        backup=backup or BackupSettings(),
    )
    monitor = DeviceMonitor(device)
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(monitor.run())
        async with open_supervised(engine, settings, CardControl(settings, monitor.smi)) as opened:
            assert opened.worker
            governor = Governor(opened.queue, opened.worker, monitor, device, 0)
            stats = opened.queue.stats
            steps: list[RecoveryStep] = []
            reporter = HealthReporter("rig", "b", opened.queue, monitor, governor=governor, index=0)

            def note() -> None:
                step = stats.recovery()
                if step and not step.is_over:
                    steps.append(step.step)

            stats.on_change.append(note)
            shared = Shared(folder / "shared")
            yield Rig(folder, shared, opened, monitor, governor, reporter, steps)
            shared.close()
            governor.close()
        reading.cancel()


async def test_a_call_that_fails_once_is_made_again(
    tmp_path: Path, card_model_dir: Path, card: Card
) -> None:
    async with open_rig(tmp_path, card_model_dir, card) as rig:
        undisturbed = await rig.ask(POEM)
        assert rig.opened.worker
        pid = rig.opened.worker.pid
        rig.inject("axclrtEngineExecute:30:code=0x8030070c")
        assert await rig.ask(POEM) == undisturbed
        assert rig.opened.worker.pid == pid
        assert rig.health().counts.restarts == 0


async def test_a_card_that_dies_is_rebooted_and_the_answer_goes_on(
    tmp_path: Path, card_model_dir: Path, card: Card
) -> None:
    async with open_rig(tmp_path, card_model_dir, card) as rig:
        undisturbed = await rig.ask(POEM)
        assert await rig.ask_through("axclrtEngineExecute:60:die", POEM) == undisturbed
        health = rig.health()
        assert health.counts.recoveries == 1
        assert health.last_fault
        assert "0x80300181 DEVICE_NO_CONNECT" in health.last_fault.message
        assert health.recovery
        assert (health.recovery.step, health.recovery.is_over) == ("reboot_card", True)
        # Three failures in a row climb a step: the death, and two loads that found the card dead.
        assert [step for step in rig.steps if step != "reboot_card"].count("restart") >= 3
        assert rig.shared["reboots"] == 1


async def test_a_call_that_hangs_is_noticed_and_the_answer_goes_on(
    tmp_path: Path, card_model_dir: Path, card: Card
) -> None:
    async with open_rig(tmp_path, card_model_dir, card, hang_timeout_s=1.0) as rig:
        undisturbed = await rig.ask(POEM)
        assert await rig.ask_through("axclrtEngineExecute:60:hang=60", POEM) == undisturbed
        fault = rig.health().last_fault
        assert fault
        assert "not made a step for 1 s" in fault.message


async def test_a_load_that_hangs_is_noticed(
    tmp_path: Path, card_model_dir: Path, card: Card
) -> None:
    (tmp_path / "control").write_text("axclrtEngineLoadFromFile:3:hang\n")
    async with open_rig(tmp_path, card_model_dir, card, load_timeout_s=12.0) as rig:
        await eventually(lambda: rig.health().counts.restarts == 1, 30)
        rig.inject("")
        assert await rig.ask("Hello!")


async def test_a_card_that_stays_dead_needs_a_person_and_is_tried_on(
    tmp_path: Path, card_model_dir: Path, card: Card
) -> None:
    (tmp_path / "state").touch()
    (tmp_path / "axcl-smi.control").write_text("reboot=fail reboot_s=0")
    quick = {"failures_per_step": 2}
    async with open_rig(tmp_path, card_model_dir, card, recovery=quick) as rig:
        waiting = asyncio.ensure_future(rig.ask("Hello!"))  # asked while there was hope
        with pytest.raises(DeviceUnavailableError, match=r"2 restarts, \d reboots? of the card"):
            await waiting
        assert rig.opened.queue.activity == "failed"
        began = time.monotonic()
        with pytest.raises(DeviceUnavailableError) as caught:
            await rig.ask("Hello!")
        assert time.monotonic() - began < 0.5
        assert caught.value.retry_after_s is not None
        attention = rig.health().attention
        assert attention
        assert "look at the card" in attention
        (tmp_path / "state").unlink()  # somebody came and pushed the card in again
        await eventually(lambda: rig.opened.queue.state == "ready", 30)
        assert await rig.ask("Hello!")
        assert rig.health().attention is None


async def test_the_driver_is_loaded_anew_when_a_reboot_does_not_help(
    tmp_path: Path, card_model_dir: Path, card: Card
) -> None:
    (tmp_path / "state").touch()
    (tmp_path / "axcl-smi.control").write_text("reboot=fail reboot_s=0")
    helper = ("/bin/sh", "-c", f"rm {tmp_path}/state; touch {tmp_path}/reloaded")
    quick = {"failures_per_step": 1, "driver_reload": helper}
    async with open_rig(tmp_path, card_model_dir, card, recovery=quick) as rig:
        assert await rig.ask("Hello!")
        assert (tmp_path / "reloaded").exists()
        assert list(dict.fromkeys(rig.steps)) == ["restart", "reboot_card", "reload_driver"]


async def test_a_person_may_reboot_the_card_that_was_given_up(
    tmp_path: Path, card_model_dir: Path, card: Card
) -> None:
    (tmp_path / "state").touch()
    (tmp_path / "axcl-smi.control").write_text("reboot=fail reboot_s=0")
    quick = {"failures_per_step": 1, "retry_after_s": 60.0}
    async with open_rig(tmp_path, card_model_dir, card, recovery=quick) as rig:
        await eventually(lambda: rig.opened.queue.state == "failed", 60)
        rig.tool("reboot_s=0")
        (tmp_path / "state").unlink()  # else the next load would fail, and the order come after it
        assert rig.opened.worker
        rig.opened.worker.order("reboot_card", "somebody asked for it")
        await eventually(lambda: rig.opened.queue.state == "ready", 30)
        assert rig.shared["reboots"] == 1
        assert await rig.ask("Hello!")
        # It was done, and is not done again when a worker ends for another reason.
        os.kill(rig.opened.worker.pid or 0, signal.SIGKILL)
        await eventually(lambda: rig.health().counts.recoveries == 2, 30)
        assert rig.shared["reboots"] == 1
        assert rig.steps[-1] == "restart"


async def test_the_second_engine_answers_while_a_person_is_needed(
    tmp_path: Path, card_model_dir: Path, card: Card
) -> None:
    (tmp_path / "state").touch()
    (tmp_path / "axcl-smi.control").write_text("reboot=fail reboot_s=0")
    backup = BackupSettings(kind="worker")
    quick = {"failures_per_step": 1}
    async with open_rig(tmp_path, card_model_dir, card, recovery=quick, backup=backup) as rig:
        assert "7" in await rig.ask("What is 3 plus 4?")
        await eventually(lambda: rig.opened.queue.activity == "idle")
        assert rig.opened.queue.models[0].runtime == "onnx"
        assert rig.health().attention
        (tmp_path / "state").unlink()
        await eventually(lambda: "axcl" in str(rig.opened.queue.models[0].runtime), 30)
        assert "7" in await rig.ask("What is 3 plus 4?")


async def test_a_second_engine_that_can_not_be_opened_changes_nothing(
    tmp_path: Path, card_model_dir: Path, card: Card
) -> None:
    (tmp_path / "state").touch()
    (tmp_path / "axcl-smi.control").write_text("reboot=fail reboot_s=0")
    backup = BackupSettings(kind="worker", model=tmp_path / "nothing")
    quick = {"failures_per_step": 1}
    async with open_rig(tmp_path, card_model_dir, card, recovery=quick, backup=backup) as rig:
        with pytest.raises(EdgeLLMError):
            await rig.ask("Hello!")
        (tmp_path / "state").unlink()
        await eventually(lambda: rig.opened.queue.state == "ready", 30)
        assert await rig.ask("Hello!")


async def test_a_stopped_worker_is_found_also_when_nobody_asks(
    tmp_path: Path, card_model_dir: Path, card: Card
) -> None:
    quick = {"keepalive_s": 0.3}
    async with open_rig(tmp_path, card_model_dir, card, recovery=quick, hang_timeout_s=1.0) as rig:
        await rig.opened.queue.ready()
        assert rig.opened.worker
        pid = rig.opened.worker.pid
        assert pid
        await asyncio.sleep(2.5)  # a token now and then is no trouble
        assert rig.opened.worker.pid == pid
        os.kill(pid, signal.SIGSTOP)
        await eventually(lambda: rig.opened.worker and rig.opened.worker.pid != pid, 20)
        assert await rig.ask("Hello!")


async def test_a_card_that_gets_hot_works_less_pauses_and_goes_on(
    tmp_path: Path, card_model_dir: Path, card: Card
) -> None:
    async with open_rig(tmp_path, card_model_dir, card) as rig:
        undisturbed = await rig.ask(POEM)
        queue = rig.opened.queue
        await eventually(lambda: rig.governor.heat == "normal")
        rig.shared.celsius = 77
        await eventually(lambda: rig.governor.heat == "hot")
        _, done = await answer(queue, POEM, max_tokens=200)
        assert done.usage.completion_tokens <= DeviceSettings().thermal.hot_max_tokens
        low = asyncio.ensure_future(rig.ask(POEM, priority=2))
        await asyncio.sleep(0.5)
        assert queue.activity == "queued"
        assert queue.num_waiting == 1
        rig.shared.celsius = 40
        assert await low == undisturbed
        rig.shared.celsius = 81
        await eventually(lambda: queue.activity == "cooling")
        waiting = asyncio.ensure_future(rig.ask(POEM))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        assert rig.health().queue.holds == ("cooling",)
        rig.shared.celsius = 65
        assert await waiting
        assert rig.shared["reboots"] == 0


async def test_an_emergency_resets_the_card_and_the_answer_goes_on_when_it_is_cool(
    tmp_path: Path, card_model_dir: Path, card: Card
) -> None:
    async with open_rig(tmp_path, card_model_dir, card) as rig:
        undisturbed = await rig.ask(POEM)
        rig.inject("axclrtEngineExecute:1+:hang=0.005")  # so that it takes a while
        asked = asyncio.ensure_future(rig.ask(POEM))
        await eventually(lambda: rig.opened.queue.activity == "generating")
        rig.shared.celsius = 86
        await eventually(lambda: rig.shared["reboots"] == 1)
        await eventually(lambda: rig.opened.queue.state == "ready", 20)
        assert not asked.done()
        assert rig.opened.queue.activity == "cooling"
        rig.inject("")
        rig.shared.celsius = 60
        assert await asked == undisturbed


async def test_memory_that_leaks_is_brought_back_by_a_reload(
    tmp_path: Path, card_model_dir: Path, card: Card
) -> None:
    async with open_rig(tmp_path, card_model_dir, card) as rig:
        rig.governor._leaks._settle_s = 0.2
        undisturbed = await rig.ask(POEM)
        assert rig.opened.worker
        pid = rig.opened.worker.pid
        await eventually(lambda: rig.governor._leaks._baseline_mib is not None)
        rig.shared.leak(100 * 2**20)  # within the margin
        await asyncio.sleep(0.5)
        assert rig.opened.worker.pid == pid
        rig.shared.leak(200 * 2**20)
        await eventually(lambda: rig.opened.worker and rig.opened.worker.pid not in (pid, None), 20)
        assert rig.shared["cmm_leaked"] == 0
        health = rig.health()
        assert health.recovery
        assert (health.recovery.step, health.recovery.is_over) == ("reload", True)
        assert "MiB of the card's memory leaked" in health.recovery.reason
        assert health.counts.restarts == 0
        assert await rig.ask(POEM) == undisturbed


@pytest.mark.parametrize("words", ["hang", "garbage", "empty", "no_rows"])
async def test_a_tool_that_fails_does_not_matter(
    tmp_path: Path, card_model_dir: Path, card: Card, words: str
) -> None:
    (tmp_path / "axcl-smi.control").write_text(words)
    async with open_rig(tmp_path, card_model_dir, card) as rig:
        assert await rig.ask("Hello!")
        await asyncio.sleep(0.3)
        health = rig.health()
        assert (health.heat, health.card) == (None, None)
        assert health.state == "ready"
