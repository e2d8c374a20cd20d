"""``edge-llm watch``: what happens at a broker, live in a terminal or line by line in a pipe."""

from edge_llm.watch.run import run_watch

__all__ = ["run_watch"]
