"""How the hardware is watched, and at what readings something is done."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from edge_llm.section import Section

__all__ = ["DeviceSettings", "ThermalSettings"]

Celsius = Annotated[float, Field(ge=0, le=120)]


class ThermalSettings(Section):
    """From which temperature of the card on it does less; it resets itself at 120 °C."""

    warn_celsius: Celsius = 70.0
    """Say so, and read more often."""
    hot_celsius: Celsius = 75.0
    """Generate more slowly, answer more briefly, let requests of low priority wait."""
    critical_celsius: Celsius = 80.0
    """Finish the sentence in hand, and pause."""
    emergency_celsius: Celsius = 85.0
    """Stop at once, and reset the card."""
    resume_celsius: Celsius = 70.0
    """After a pause, go on below this."""
    hysteresis_celsius: Annotated[float, Field(ge=0, le=20)] = 3.0
    """How far below a threshold it must be again before that no longer holds."""
    hot_duty: Annotated[float, Field(gt=0, le=1)] = 0.5
    """When hot: which part of the time the card works; the rest it rests between two tokens."""
    hot_max_tokens: Annotated[int, Field(ge=1)] = 96
    """When hot: most tokens of an answer."""
    hot_min_priority: Annotated[int, Field(ge=0, le=9)] = 5
    """When hot: requests of a lower priority wait."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        steps = (
            self.warn_celsius,
            self.hot_celsius,
            self.critical_celsius,
            self.emergency_celsius,
        )
        if list(steps) != sorted(set(steps)):
            raise ValueError("warn, hot, critical and emergency must rise from one to the next")
        if self.resume_celsius >= self.critical_celsius:
            raise ValueError("resume_celsius must be below critical_celsius")
        return self


class DeviceSettings(Section):
    """Readings of the card and the host."""

    axcl_smi: Path | None = None
    """The vendor's tool; found where its package puts it if not given."""
    interval_s: Annotated[float, Field(ge=10)] = 30.0
    """Seconds between two readings; each one keeps the card busy for a moment. From ``warn`` on it
    is read every 10 s."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 10.0
    """How long a reading of the card may take, in seconds."""
    thermal: ThermalSettings = ThermalSettings()
    cmm_margin_mib: Annotated[int, Field(ge=16)] = 192
    """How far the card's free memory may fall below what the model left when it was loaded, before
    that is taken for a leak and the model is loaded again, in MiB."""
