"""The ONNX graphs of a Qwen decoder: one for each layer, one for the logits.

A layer sees the KV cache as an input and returns only the new rows; the caller stores them. K rows
are stored after RoPE. Three things keep a call cheap on the CPU, as measured on ONNX Runtime 1.32:

- The history is never copied. Scores against history and chunk are computed apart, only they are
  concatenated, and the two products with V are added.
- The query heads that share a KV head are rows of one matrix, so K and V are not repeated. They
  are transposed next to a MatMul, where ONNX Runtime fuses the two.
- Weights that are exact in bfloat16 are stored so, with a Cast that ONNX Runtime folds at load.

Weights keep their Hugging Face names. Matrices are stored as ``(in, out)``, the transpose of
Hugging Face's; quantized ones as ``(out, blocks, bytes)``, with ``<name>.scales`` and
``<name>.zero_points`` beside them.
"""

import json
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

from edge_llm.engine.export.checkpoint import Architecture, Checkpoint
from edge_llm.engine.export.quantization import BLOCK_LEN, Bits, quantize_weight
from edge_llm.npu.onnx import CHUNK_AXIS, HISTORY_AXIS, SHAPE_GROUPS_KEY, TOTAL_AXIS

__all__ = ["make_layer", "make_post"]

OPSET = 23
"""The first with RMSNormalization and RotaryEmbedding."""

IR_VERSION = 10
"""The oldest that serves; newer ones are refused by older runtimes."""

INT8_ACTIVATIONS = 4
"""MatMulNBits' accuracy_level: inputs are rounded to int8 per block, for the CPU's dot products."""


class GraphBuilder:
    """Collects the nodes and initializers of one graph; tensors go by name."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []

    def node(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add an operation with one output, and return the output's name."""
        output = output or f"{op.lower()}_{len(self._nodes)}"
        self._nodes.append(onnx.helper.make_node(op, inputs, [output], **attributes))
        return output

    def split(self, tensor: str, sizes: str) -> tuple[str, str]:
        """Cut a tensor in two along its last axis."""
        outputs = (f"{tensor}_left", f"{tensor}_right")
        self._nodes.append(onnx.helper.make_node("Split", [tensor, sizes], outputs, axis=-1))
        return outputs

    def constant(self, value: object, dtype: type[np.generic] = np.int64) -> str:
        """Add a constant, and return its name."""
        name = f"constant_{len(self._initializers)}"
        self._initializers.append(onnx.numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        """Add a tensor of the checkpoint, matrices transposed, and return it as float32's name."""
        return self._floats(name, self._checkpoint.tensor(name, *shape).T)

    def linear(self, layer: str, tensor: str, in_len: int, out_len: int, bits: Bits) -> str:
        """Multiply by the weight of a linear layer."""
        name = f"{layer}.weight"
        if bits is None:
            return self.node("MatMul", tensor, self.weight(name, out_len, in_len))
        quantized = quantize_weight(self._checkpoint.tensor(name, out_len, in_len), bits)
        inputs = [tensor, self._store(name, quantized.packed)]
        inputs.append(self._store(f"{name}.scales", quantized.scales))
        if quantized.zero_points is not None:
            inputs.append(self._store(f"{name}.zero_points", quantized.zero_points))
        return self.node(
            "MatMulNBits",
            *inputs,
            domain="com.microsoft",
            K=in_len,
            N=out_len,
            bits=bits,
            block_size=BLOCK_LEN,
            accuracy_level=INT8_ACTIVATIONS,
        )

    def rms_norm(self, name: str, tensor: str, length: int, eps: float) -> str:
        """Normalize along the last axis."""
        weight = self.weight(name, length)
        return self.node("RMSNormalization", tensor, weight, axis=-1, epsilon=eps)

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        metadata: dict[str, str],
    ) -> onnx.ModelProto:
        """Finish the graph."""
        graph = onnx.helper.make_graph(self._nodes, name, inputs, outputs, self._initializers)
        opsets = [
            onnx.helper.make_opsetid("", OPSET),
            onnx.helper.make_opsetid("com.microsoft", 1),
        ]
        model = onnx.helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edge-llm"
        )
        onnx.helper.set_model_props(model, metadata)
        return model

    def _floats(self, name: str, values: NDArray[Any]) -> str:
        """Add floats at half their size if nothing is lost by it."""
        rounded = values.astype(ml_dtypes.bfloat16, copy=False)
        if rounded is not values:
            exact = values.astype(np.float32)
            if not np.array_equal(rounded.astype(np.float32), exact):
                return self._store(name, exact)
        self._store(name, rounded)
        return self.node("Cast", name, to=onnx.TensorProto.FLOAT, output=f"{name}.float32")

    def _store(self, name: str, values: NDArray[Any]) -> str:
        dtype = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        raw = np.ascontiguousarray(values).tobytes()
        tensor = onnx.helper.make_tensor(name, dtype, values.shape, raw, raw=True)
        self._initializers.append(tensor)
        return name


def make_layer(
    checkpoint: Checkpoint, index: int, bits: Bits, groups: Sequence[tuple[int, int]]
) -> onnx.ModelProto:
    """Build the graph of one layer, for these shape groups."""
    arch = checkpoint.architecture
    builder = GraphBuilder(checkpoint)
    name = f"model.layers.{index}"
    normed = builder.rms_norm(
        f"{name}.input_layernorm.weight", "input", arch.hidden_size, arch.rms_norm_eps
    )
    query = _project(builder, arch, f"{name}.self_attn", normed, bits)
    attended = _attend(builder, arch, query)
    heads_len = arch.num_heads * arch.head_dim
    attended = builder.linear(
        f"{name}.self_attn.o_proj", attended, heads_len, arch.hidden_size, bits
    )
    hidden = builder.node("Add", "input", attended)
    normed = builder.rms_norm(
        f"{name}.post_attention_layernorm.weight", hidden, arch.hidden_size, arch.rms_norm_eps
    )
    builder.node("Add", hidden, _mlp(builder, arch, f"{name}.mlp", normed, bits), output="output")

    cache = (1, HISTORY_AXIS, arch.kv_dim)
    rows = (1, CHUNK_AXIS, arch.kv_dim)
    states = (1, CHUNK_AXIS, arch.hidden_size)
    return builder.model(
        name,
        [
            _info("K_cache", cache),
            _info("V_cache", cache),
            _info("indices", (1, CHUNK_AXIS), onnx.TensorProto.UINT32),
            _info("input", states),
            _info("mask", (1, CHUNK_AXIS, TOTAL_AXIS)),
        ],
        [_info("K_cache_out", rows), _info("V_cache_out", rows), _info("output", states)],
        {SHAPE_GROUPS_KEY: json.dumps(groups)},
    )


def make_post(checkpoint: Checkpoint, bits: Bits) -> onnx.ModelProto:
    """Build the graph of the final norm and the logits."""
    arch = checkpoint.architecture
    builder = GraphBuilder(checkpoint)
    normed = builder.rms_norm("model.norm.weight", "input", arch.hidden_size, arch.rms_norm_eps)
    head = "model.embed_tokens" if arch.tied else "lm_head"
    logits = builder.linear(head, normed, arch.hidden_size, arch.vocab_size, bits)
    builder.node("Identity", logits, output="output")
    states, logits_shape = (1, 1, arch.hidden_size), (1, 1, arch.vocab_size)
    return builder.model("post", [_info("input", states)], [_info("output", logits_shape)], {})


def _info(
    name: str, shape: Sequence[int | str], dtype: int = onnx.TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, dtype, shape)


def _project(builder: GraphBuilder, arch: Architecture, name: str, normed: str, bits: Bits) -> str:
    """Write the new rows to K_cache_out and V_cache_out, and return the query, all after RoPE."""
    cos, sin = _rope_tables(builder, arch)

    def project(letter: str, num_heads: int) -> str:
        layer, out_len = f"{name}.{letter}_proj", num_heads * arch.head_dim
        projected = builder.linear(layer, normed, arch.hidden_size, out_len, bits)
        if not arch.qkv_bias:
            return projected
        return builder.node("Add", projected, builder.weight(f"{layer}.bias", out_len))

    def rotate(letter: str, num_heads: int, output: str | None = None) -> str:
        tensor = project(letter, num_heads)
        if arch.qk_norm:
            tensor = builder.node(
                "Reshape", tensor, builder.constant([1, -1, num_heads, arch.head_dim])
            )
            tensor = builder.rms_norm(
                f"{name}.{letter}_norm.weight", tensor, arch.head_dim, arch.rms_norm_eps
            )
            tensor = builder.node(
                "Reshape", tensor, builder.constant([1, -1, num_heads * arch.head_dim])
            )
        return builder.node("RotaryEmbedding", tensor, cos, sin, num_heads=num_heads, output=output)

    rotate("k", arch.num_kv_heads, "K_cache_out")
    builder.node("Identity", project("v", arch.num_kv_heads), output="V_cache_out")
    return rotate("q", arch.num_heads)


def _rope_tables(builder: GraphBuilder, arch: Architecture) -> tuple[str, str]:
    """Return cosine and sine of the angles ``(1, chunk, head_dim / 2)``, in float32 throughout."""
    # The same steps as transformers' Qwen3RotaryEmbedding, in the same precision.
    exponents = np.arange(0, arch.head_dim, 2, dtype=np.float32) / np.float32(arch.head_dim)
    frequencies = np.float32(1) / np.float32(arch.rope_theta) ** exponents
    positions = builder.node("Cast", "indices", to=onnx.TensorProto.FLOAT)
    positions = builder.node("Reshape", positions, builder.constant([1, -1, 1]))
    angles = builder.node("Mul", positions, builder.constant(frequencies, np.float32))
    return builder.node("Cos", angles), builder.node("Sin", angles)


def _attend(builder: GraphBuilder, arch: Architecture, query: str) -> str:
    """Attend to the history and to the chunk; returns ``(1, chunk, heads * head_dim)``."""
    num_kv, head_dim = arch.num_kv_heads, arch.head_dim
    shared = arch.num_heads // num_kv  # query heads per KV head
    rows = builder.constant([-1, num_kv, head_dim])
    per_kv_head = builder.constant([num_kv, -1, 0])
    per_head = builder.constant([arch.num_heads, -1, 0])

    def heads(tensor: str) -> str:
        return builder.node("Reshape", tensor, rows)

    query = builder.node("Reshape", query, builder.constant([-1, num_kv, shared, head_dim]))
    query = builder.node("Transpose", query, perm=[1, 2, 0, 3])
    query = builder.node("Reshape", query, builder.constant([num_kv, -1, head_dim]))
    query = builder.node("Mul", query, builder.constant(head_dim**-0.5, np.float32))
    scores = [
        builder.node("MatMul", query, builder.node("Transpose", heads(keys), perm=[1, 2, 0]))
        for keys in ("K_cache", "K_cache_out")
    ]
    joined = builder.node("Reshape", builder.node("Concat", *scores, axis=-1), per_head)
    masked = builder.node("Add", joined, "mask")
    weights = builder.node("Reshape", builder.node("Softmax", masked, axis=-1), per_kv_head)
    history_len = builder.node("Shape", "K_cache", start=1, end=2)
    chunk_len = builder.node("Shape", "input", start=1, end=2)
    parts = builder.split(weights, builder.node("Concat", history_len, chunk_len, axis=0))
    products = [
        builder.node("MatMul", part, builder.node("Transpose", heads(values), perm=[1, 0, 2]))
        for part, values in zip(parts, ("V_cache", "V_cache_out"), strict=True)
    ]
    attended = builder.node("Reshape", builder.node("Add", *products), per_head)
    attended = builder.node("Transpose", attended, perm=[1, 0, 2])
    return builder.node("Reshape", attended, builder.constant([1, -1, arch.num_heads * head_dim]))


def _mlp(builder: GraphBuilder, arch: Architecture, name: str, normed: str, bits: Bits) -> str:
    """The gated feed-forward part (SwiGLU)."""
    hidden, inner = arch.hidden_size, arch.intermediate_size
    gate = builder.linear(f"{name}.gate_proj", normed, hidden, inner, bits)
    gate = builder.node("Mul", gate, builder.node("Sigmoid", gate))
    up = builder.linear(f"{name}.up_proj", normed, hidden, inner, bits)
    return builder.linear(f"{name}.down_proj", builder.node("Mul", gate, up), inner, hidden, bits)
