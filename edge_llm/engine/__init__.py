"""Text in, text out: the Engine interface, and the factory that opens the one in the settings."""

from edge_llm.engine.factory import OpenEngine, open_engine, open_supervised
from edge_llm.engine.interface import Engine, EngineState, PausableEngine
from edge_llm.engine.stats import Ended, EngineStats

__all__ = [
    "Ended",
    "Engine",
    "EngineState",
    "EngineStats",
    "OpenEngine",
    "PausableEngine",
    "open_engine",
    "open_supervised",
]
