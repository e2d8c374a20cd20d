"""Tensors in, tensors out: what runs a model's graphs, without knowing anything of text."""

from edge_llm.npu.session import Session, TensorInfo

__all__ = ["Session", "TensorInfo"]
