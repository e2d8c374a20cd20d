"""Shorter clocks, so that what takes minutes in an installation takes seconds in a test.

The settings refuse readings every few seconds and attempts at recovery in quick succession, for the
card's sake. Here all such times are divided by one factor, those in the settings and those in the
code, so what follows what stays the same.
"""

import importlib
import inspect

from edge_llm.device.health import LeakWatch
from edge_llm.engine.worker.step_clock import StepClock
from edge_llm.settings import DeviceSettings, RecoverySettings, Settings, WorkerSettings

__all__ = ["FACTOR", "quicken_core", "quicken_settings", "quicken_worker"]

FACTOR = 10.0

CORE = (
    ("edge_llm.device.health", "UNKNOWN_AFTER_S"),
    ("edge_llm.device.health", "RELAPSE_S"),
    ("edge_llm.device.health", "HOT_AT_MOST_S"),
    ("edge_llm.device.health", "SETTLE_S"),
    ("edge_llm.device.health", "RELOAD_EVERY_S"),
    ("edge_llm.device.ladder", "HOUR_S"),
    ("edge_llm.device.ladder", "LONGEST_INTERVAL_S"),
    ("edge_llm.device.ladder", "LONGEST_RETRY_S"),
    ("edge_llm.device.monitor", "FAST_INTERVAL_S"),
    ("edge_llm.engine.governor", "FINISH_SENTENCE_S"),
    ("edge_llm.engine.worker.step_clock", "FIRST_S"),
    ("edge_llm.engine.worker.step_clock", "LEAST_S"),
    ("edge_llm.service.presence", "HEALTH_EVERY_S"),
)
WORKER = (("edge_llm.engine.stacks", "SYNC_TIMEOUT_S"),)

DEVICE = ("interval_s", "timeout_s")
RECOVERY = (
    "interval_s",
    "retry_after_s",
    "card_reboot_timeout_s",
    "driver_reload_timeout_s",
    "keepalive_s",
)
STOP = ("stop_timeout_s", "load_timeout_s", "restart_delay_s")


def _divide(constants: tuple[tuple[str, str], ...], factor: float) -> None:
    for module_name, name in constants:
        module = importlib.import_module(module_name)
        setattr(module, name, getattr(module, name) / factor)


def quicken_core(factor: float) -> None:
    """Divide the times in the code of this process, which is to become a node."""
    _divide(CORE, factor)
    # Taken from the constants when the functions were made.
    for function in (LeakWatch.__init__, StepClock.__init__):
        names = inspect.signature(function).parameters
        defaults = {name: parameter.default for name, parameter in names.items()}
        function.__defaults__ = tuple(
            value / factor if name == "settle_s" else value
            for name, value in defaults.items()
            if value is not inspect.Parameter.empty
        )


def quicken_worker(factor: float) -> None:
    """Divide those of a worker process."""
    _divide(WORKER, factor)


def quicken_settings(settings: Settings, factor: float, **changes: object) -> Settings:
    """Return the settings with all times of device and recovery divided, which they would refuse.

    Args:
        settings: as they were read.
        factor: what to divide by.
        changes: of ``[recovery]``, after that.
    """
    recovery = {name: getattr(settings.recovery, name) / factor for name in RECOVERY}
    worker = settings.engine.worker.model_copy(
        update={name: getattr(settings.engine.worker, name) / factor for name in STOP}
    )
    device = {name: getattr(settings.device, name) / factor for name in DEVICE}
    return settings.model_copy(
        update={
            "device": settings.device.model_copy(update=device),
            "recovery": settings.recovery.model_copy(update={**recovery, **changes}),
            "engine": settings.engine.model_copy(update={"worker": worker}),
        }
    )


def check_sections() -> None:
    """Fail if a setting that is divided has another name by now.

    Raises:
        AttributeError: names it.
    """
    for section, names in (
        (DeviceSettings, DEVICE),
        (RecoverySettings, RECOVERY),
        (WorkerSettings, STOP),
    ):
        for name in names:
            if name not in section.model_fields:
                raise AttributeError(f"{section.__name__} has no {name}")
