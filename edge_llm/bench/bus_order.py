"""What is said between the benchmark and the process that measures the bus."""

from pathlib import Path

from pydantic import BaseModel

from edge_llm.bench.report import Bus

__all__ = ["BusAnswer", "BusOrder"]


class BusOrder(BaseModel):
    """What to measure."""

    library: str
    device: int
    layer: Path
    """The graph of one layer, which stands for all: they have the same shapes."""
    post: Path
    num_layers: int
    variant: str
    """How the worker drives the card, in the words of its self-test."""


class BusAnswer(BaseModel):
    """What came of it: one of both."""

    bus: Bus | None = None
    error: str | None = None
