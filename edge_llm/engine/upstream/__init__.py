"""A server that speaks OpenAI's dialect, as the engine of this node."""

from edge_llm.engine.upstream.engine import UpstreamEngine, open_upstream

__all__ = ["UpstreamEngine", "open_upstream"]
