"""How the hardware is watched."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from edge_llm.section import Section

__all__ = ["DeviceSettings"]


class DeviceSettings(Section):
    """Readings of the card and the host."""

    axcl_smi: Path | None = None
    """The vendor's tool; found where its package puts it if not given."""
    interval_s: Annotated[float, Field(ge=10)] = 30.0
    """Seconds between two readings; each one keeps the card busy for a moment."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 10.0
    """How long a reading of the card may take, in seconds."""
