"""A process that owns the device, and the engine that it is for the core."""

from edge_llm.engine.worker.engine import WorkerEngine

__all__ = ["WorkerEngine"]
