"""What is logged, and how."""

from typing import Literal

from edge_llm.section import Section

__all__ = [
    "LogSettings",
]


class LogSettings(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """How much; what is asked and answered is logged at none of them."""
    format: Literal["auto", "text", "json"] = "auto"
    """Auto: readable on a terminal, JSON otherwise."""
