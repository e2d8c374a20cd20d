"""Tensors in, tensors out: what runs a model's graphs, without knowing anything of text."""

from edge_llm.npu.session import Graph, Session, TensorInfo
from edge_llm.npu.stack import Stack

__all__ = ["Graph", "Session", "Stack", "TensorInfo"]
