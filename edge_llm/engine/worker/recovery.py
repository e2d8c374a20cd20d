"""What is done when a worker has ended: which step, when, and what is told of it."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import structlog

from edge_llm.device.card import CardControl
from edge_llm.device.ladder import Attempt, Ladder
from edge_llm.engine.stats import EngineStats
from edge_llm.errors import DeviceUnavailableError, EdgeLLMError
from edge_llm.protocol import RecoveryStep
from edge_llm.settings import RecoverySettings, WorkerSettings

__all__ = ["Recovery", "uses_card"]

log = structlog.get_logger()

MOST_PER_HOUR = 3600  # where there is no card that attempts could harm


def uses_card(settings: WorkerSettings) -> bool:
    """Tell whether a worker will run on a card, as far as that can be said without its runtime."""
    if settings.runtime != "auto":
        return settings.runtime != "onnx"
    model: Path | None = settings.model
    return model is not None and any(model.glob("*.axmodel"))


class Recovery:
    """Climbs the ladder while a worker fails, and comes down when one works.

    Args:
        settings: how often what is tried.
        worker: of the process.
        card: what can be done to the card, if there is one.
        stats: where it is told.
    """

    def __init__(
        self,
        settings: RecoverySettings,
        worker: WorkerSettings,
        card: CardControl | None,
        stats: EngineStats,
    ) -> None:
        self._delay_s = worker.restart_delay_s
        self._settle_s = settings.settle_s
        self._device = worker.device
        self._card = card
        self._stats = stats
        if not card:
            settings = settings.model_copy(
                update={"interval_s": self._delay_s, "max_per_hour": MOST_PER_HOUR}
            )
        self._ladder = Ladder(settings, ("restart", *(card.steps if card else ())))
        self._wake = asyncio.Event()
        self.longest_step_s = (
            settings.card_reboot_timeout_s + settings.driver_reload_timeout_s + settings.settle_s
        )
        """How long a step may take, and a reboot that waits for a reading, in seconds."""
        self.error: DeviceUnavailableError | None = None
        """What requests are told while a person is needed."""

    def succeed(self) -> None:
        """Take it that the worker works."""
        self._ladder.succeed(time.monotonic())

    def wake(self) -> None:
        """Wait no longer: somebody wants something to be done now."""
        self._wake.set()

    def decide(self, fault: EdgeLLMError) -> Attempt:
        """Say what the next worker needs to have a chance, and tell it."""
        self._stats.note_fault(fault)
        attempt = self._ladder.fail(f"{fault.code}: {fault.message}", time.monotonic())
        wait_s = max(attempt.wait_s, self._delay_s)
        self._note_help(attempt, wait_s)
        step: RecoveryStep = "wait_for_help" if attempt.needs_help else attempt.step
        self._note(step, attempt.reason, attempt.number, wait_s)
        self._wake.clear()
        return replace(attempt, wait_s=wait_s)

    async def attempt(self, attempt: Attempt) -> None:
        """Wait, and do it; what somebody wants to be done meanwhile comes in place of it."""
        try:
            await asyncio.wait_for(self._wake.wait(), attempt.wait_s)
        except TimeoutError:
            await self._do(attempt.step)

    async def carry_out(self, step: RecoveryStep, reason: str) -> None:
        """Do what was asked for."""
        self._note(step, reason, 1, 0.0)
        await self._do(step)

    def _note(self, step: RecoveryStep, reason: str, number: int, wait_s: float) -> None:
        log.warning(
            "recovery.step", step=step, reason=reason, attempt=number, in_s=round(wait_s, 1)
        )
        self._stats.note_step(step, reason, number)

    def _note_help(self, attempt: Attempt, wait_s: float) -> None:
        if not attempt.needs_help:
            self.error = None
            return
        text = (
            f"the engine does not come back, after {self._ladder.tried}; the last reason was "
            f"{attempt.reason}"
        )
        self.error = DeviceUnavailableError(text, retry_after_s=round(wait_s, 1))
        cure = (
            "look at the card and its power, 'dmesg' and the log" if self._card else "see the log"
        )
        self._stats.attention = f"{text}; {cure}"
        log.error("recovery.needs_help", tried=self._ladder.tried, do=cure)

    async def _do(self, step: RecoveryStep) -> None:
        card = self._card
        if card is None or step not in ("reboot_card", "reload_driver"):
            return
        is_done = await (
            card.reboot(self._device) if step == "reboot_card" else card.reload_driver()
        )
        if is_done:  # else the next worker shows what it can do with the card as it is
            await asyncio.sleep(self._settle_s)
