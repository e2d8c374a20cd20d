"""How a node is: its device, its queue, what it has done and what it has recovered from."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from edge_llm.protocol.wire import Told

__all__ = [
    "ACTIVITIES",
    "CardHealth",
    "Counts",
    "EngineState",
    "FaultReport",
    "FleetHealth",
    "Heat",
    "HostHealth",
    "NodeHealth",
    "QueueHealth",
    "RecoveryReport",
    "RecoveryStep",
]

EngineState = Literal["loading", "ready", "recovering", "failed", "offline"]
"""``failed`` is when a person is needed; ``offline`` when what generates is elsewhere, and away."""

ACTIVITIES = (
    "idle",
    "queued",
    "generating",
    "cooling",
    "paused",
    "reloading",
    "draining",
    "loading",
    "recovering",
    "failed",
    "offline",
)
"""What a node does, in a word for lights; how far a model is loaded may follow ``loading``."""

Heat = Literal["normal", "warn", "hot", "critical", "emergency"]
"""Of the card; see ``device.thermal`` in the settings for what is done."""

RecoveryStep = Literal["restart", "reload", "reboot_card", "reload_driver", "wait_for_help"]
"""A new process; the model loaded anew, on purpose; the card; its driver; a person."""


class CardHealth(Told):
    """The accelerator, by its vendor's tool; null is what could not be read."""

    answers: bool
    """It is not only listed, but has said something."""
    age_s: float
    """How old the reading is."""
    temperature_celsius: float | None = None
    cmm_total_mib: int | None = None
    """Memory of models and caches."""
    cmm_used_mib: int | None = None
    cmm_free_mib: int | None = None
    npu_percent: float | None = None
    cpu_percent: float | None = None
    """Of the card's own processor."""
    firmware: str | None = None
    driver: str | None = None
    pcie_speed_gts: float | None = None
    """Of the link as it is now, in GT/s per lane."""
    pcie_width: int | None = None
    """Lanes in use."""


class HostHealth(Told):
    """The machine that the node runs on."""

    age_s: float
    """How old the reading is."""
    cpu_percent: float | None = None
    memory_total_mib: int | None = None
    memory_available_mib: int | None = None
    disk_free_mib: int | None = None
    temperature_celsius: float | None = None
    throttled: tuple[str, ...] | None = None
    """What holds a Raspberry Pi back now: ``under_voltage``, ``throttled``, ...; null elsewhere."""


class QueueHealth(Told):
    """Requests in hand."""

    waiting: int
    running: int
    """Also those that are paused for another one."""
    limit: int
    """Most that may wait."""
    holds: tuple[str, ...] = ()
    """Why none begins: ``paused``, ``draining``, ``cooling``, ``reloading``."""


class FleetHealth(Told):
    """The fleet, as this node sees it."""

    joined: bool
    """It hears the fleet's servers, and takes work from them."""
    waiting: int
    """Requests that no node has in hand, as of the latest look."""
    oldest_s: float | None = None
    """How long the oldest of them has waited; null if none waits."""
    held: int
    """Requests that this node has in hand for the fleet."""


class Counts(Told):
    """What has been done since the service was started."""

    requests: Mapping[str, int] = Field(default_factory=dict)
    """By outcome: a finish reason, the code of an error, or ``cancelled``."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Those of the prompts that were still in the KV cache."""
    completion_tokens: int = 0
    restarts: int = 0
    """Worker processes that were replaced."""
    recoveries: int = 0
    """How often it was ready again after a failure."""


class FaultReport(Told):
    """The latest failure of engine or card."""

    code: str
    message: str
    age_s: float


class RecoveryReport(Told):
    """What is being done about a failure, or was done last."""

    step: RecoveryStep
    reason: str
    attempt: int
    """In a row, from 1."""
    age_s: float
    """Since the step was taken."""
    is_over: bool
    """The engine has been ready since."""


class NodeHealth(Told):
    """Retained on ``llm/node/<node>/health``: at each change of state, else every 30 s."""

    node: str
    boot_id: str
    uptime_s: float
    state: EngineState
    activity: str
    """As on the topic of that name."""
    heat: Heat | None
    """Null as long as the card's temperature is not known."""
    attention: str | None = None
    """What a person should do; null if nothing."""
    card: CardHealth | None = None
    host: HostHealth | None = None
    queue: QueueHealth
    fleet: FleetHealth | None = None
    """Null if the node is in none."""
    tokens_per_s: float | None = None
    """Of the latest answer."""
    counts: Counts
    last_fault: FaultReport | None = None
    recovery: RecoveryReport | None = None
