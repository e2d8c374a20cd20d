"""A running node: one engine, the doors to it that are switched on, and what it may be told."""

from edge_llm.node.node import Node
from edge_llm.node.opening import open_node

__all__ = ["Node", "open_node"]
