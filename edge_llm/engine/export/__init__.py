"""Hugging Face weights to a model directory of ONNX layers."""

from edge_llm.engine.export.directory import export_model

__all__ = ["export_model"]
