"""What outlives a restart."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from edge_llm.section import Section

__all__ = [
    "SessionSettings",
    "StoreSettings",
]


class StoreSettings(Section):
    """What outlives a restart: answers that may be asked for again, and conversations."""

    directory: Path | None = None
    """Where its file is; if not given systemd's state directory, or ``~/.local/state/edge-llm``."""
    max_age_s: Annotated[float, Field(gt=0)] = 86_400.0
    """How long a finished answer is kept for a request that is delivered again, in seconds."""
    max_answers: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Most finished answers that are kept; the oldest go first."""
    max_mb: Annotated[float, Field(gt=0)] = 64.0
    """Most megabytes of finished answers that are kept."""


class SessionSettings(Section):
    """Conversations that the node remembers for its clients."""

    idle_expiry_s: Annotated[float, Field(gt=0)] = 1800.0
    """How long a conversation is remembered after its last turn, in seconds."""
    max_sessions: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Most conversations; that with the oldest last turn goes first."""
    max_chars: Annotated[int, Field(ge=1000)] = 100_000
    """Most characters of one conversation, whatever the context holds; the oldest turns go."""
