"""What a node says of itself."""

from edge_llm.protocol.wire import MAX_PAYLOAD_BYTES, Told

__all__ = ["PROTOCOL_VERSION", "ModelInfo", "NodeInfo"]

PROTOCOL_VERSION = 1
"""Raised when a field changes its meaning; fields are only added otherwise."""


class ModelInfo(Told):
    """A model that a node serves."""

    id: str
    context_len: int
    """Most tokens of prompt and answer together."""
    vocab_size: int
    quantization: str | None = None
    """How the weights are stored, if the model says so."""
    runtime: str | None = None
    """What runs it: ``onnx``, ``axcl``, ``axengine`` or another server, ``openai``; and how."""
    kv_slots: int | None = None
    """How many conversations keep their prefix at a time."""
    max_tokens: int | None = None
    """Most tokens of an answer to a request that does not say."""
    has_thinking: bool | None = None
    """It can reason before it answers, if that is known."""
    has_tools: bool | None = None
    """Its chat template shows it the tools that it may call, if that is known."""


class NodeInfo(Told):
    """Retained on ``llm/node/<node>/info``."""

    node: str
    version: str
    """Of edge-llm."""
    protocol: int = PROTOCOL_VERSION
    boot_id: str
    """New at each start of the service."""
    models: tuple[ModelInfo, ...]
    engine: str
    """What generates: ``worker``, ``openai`` or ``paced``."""
    queue_limit: int
    """Most requests that may wait."""
    presets: tuple[str, ...] = ()
    """Personas that requests may name."""
    default_preset: str | None = None
    """The one that those have which name none."""
    max_payload_bytes: int = MAX_PAYLOAD_BYTES
