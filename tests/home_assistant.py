"""A node as Home Assistant sees it: its health in full and with all that may be missing."""

from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bridges.home_assistant import bridge, open_home_assistant
from edge_llm.engine import EngineStats
from edge_llm.plugin import BridgeContext
from edge_llm.protocol import (
    CardHealth,
    Counts,
    FaultReport,
    HostHealth,
    NodeHealth,
    QueueHealth,
    RecoveryReport,
)
from edge_llm.settings import HomeAssistantSettings, MqttSettings
from tests.fakes import ScriptedEngine

CONFIG = "homeassistant/device/edge_llm_stage/config"
HEALTH, STATUS, COMMAND, ACTIVITY, LAST_ANSWER = (
    f"llm/node/stage/{name}" for name in ("health", "status", "command", "activity", "last_answer")
)
GERMAN = "Über den Brücken wölbt sich ein großer, müder Mond, und die Fähre grüßt ihn leise. " * 25
JAPANESE = "橋の上に大きな月がのぼり、渡し舟は静かに挨拶をします。" * 75

FULL = NodeHealth(
    node="stage",
    boot_id="b1",
    uptime_s=3600.5,
    state="ready",
    activity="generating",
    heat="warn",
    attention='Look at the card\'s "fan" & <slot>.',
    card=CardHealth(
        answers=True,
        age_s=4.2,
        temperature_celsius=71.25,
        cmm_total_mib=7040,
        cmm_used_mib=5120,
        cmm_free_mib=1920,
        npu_percent=98.0,
        cpu_percent=3.0,
        firmware="V3.6.4",
        driver="V3.6.4",
        pcie_speed_gts=8.0,
        pcie_width=2,
    ),
    host=HostHealth(
        age_s=4.2,
        cpu_percent=12.5,
        memory_total_mib=8000,
        memory_available_mib=6000,
        disk_free_mib=90000,
        temperature_celsius=55.0,
        throttled=("under_voltage",),
    ),
    queue=QueueHealth(waiting=3, running=1, limit=16, holds=("cooling",)),
    tokens_per_s=4.21,
    counts=Counts(
        requests={"stop": 40, "length": 2, "queue_full": 1},
        prompt_tokens=9000,
        cached_tokens=8000,
        completion_tokens=2500,
        restarts=1,
        recoveries=1,
    ),
    last_fault=FaultReport(code="device_error", message="a call failed", age_s=80.0),
    recovery=RecoveryReport(
        step="restart", reason="a step took 61 s", attempt=1, age_s=79.0, is_over=True
    ),
)
BARE = NodeHealth(
    node="stage",
    boot_id="b1",
    uptime_s=0.0,
    state="loading",
    activity="loading 0/4",
    heat=None,
    queue=QueueHealth(waiting=0, running=0, limit=16),
    counts=Counts(),
)
SILENT = BARE.model_copy(
    update={"card": CardHealth(answers=False, age_s=0.0), "host": HostHealth(age_s=0.0)}
)
"""What is there can't be read."""


@asynccontextmanager
async def announced(
    mqtt: MqttSettings,
    stats: EngineStats | None = None,
    commands: Collection[str] = (),
    **settings: Any,
) -> AsyncGenerator[EngineStats]:
    """Announce a node until the context is left."""
    stats = stats or EngineStats()
    shown = HomeAssistantSettings(enabled=True, **settings)
    mqtt = mqtt.model_copy(update={"commands": tuple(commands)})
    context = BridgeContext("stage", ScriptedEngine(), mqtt, stats=stats)
    async with open_home_assistant(shown, context):
        yield stats


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody wait seconds for an announcement."""
    monkeypatch.setattr(bridge, "BIRTH_DELAY_S", (0.05, 0.1))
    monkeypatch.setattr(bridge, "SETTLE_S", 0.05)
