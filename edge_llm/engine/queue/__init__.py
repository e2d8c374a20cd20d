"""In front of an engine: which request is next, which one waits, and which is not taken at all."""

from edge_llm.engine.queue.engine import Hold, QueuedEngine

__all__ = ["Hold", "QueuedEngine"]
