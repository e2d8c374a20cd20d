"""Writes model directories for the virtual card, in the vendor's layout.

``python -m tests.virtual_ax650.pack SOURCE OUT``, where ``SOURCE`` is a Hugging Face directory of a
Qwen2 or Qwen3 model, a model directory of ONNX graphs as ``edge-llm export`` writes them in fp32
(the built-in model), or the name of a geometry (``qwen3-4b``), which gives a hollow model: files
without weights that run without computing, to count calls and bytes.

An ``.axmodel`` here is: 16 bytes of magic, the header's length (uint64), a flat JSON header padded
with spaces to a multiple of 64, bfloat16 weights in the order below, and for a layer the RoPE
frequencies in float32.
"""

import argparse
import json
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from edge_llm.engine.export.checkpoint import Architecture, Checkpoint
from edge_llm.engine.model import EMBEDDING_FILE, ModelDirectory

__all__ = [
    "GEOMETRIES",
    "LADDER",
    "Geometry",
    "OnnxWeights",
    "Timing",
    "Weights",
    "open_weights",
    "pack",
    "pack_hollow",
    "rope_frequencies",
]

MAGIC = b"VIRTUAL-AXMODEL1"
ALIGNMENT = 64
CHUNK_LEN = 128

LADDER = (1, 128, 256, 512)
"""History capacities of the prefill groups in the vendor's notation; 1 is the dummy row."""


class Weights(Protocol):
    """Where weights come from; ``Checkpoint`` is one."""

    path: Path

    @property
    def architecture(self) -> Architecture:
        """The model's numbers."""
        ...

    def tensor(self, name: str, *shape: int) -> NDArray[Any]:
        """Read a tensor by its Hugging Face name."""
        ...


@dataclass(frozen=True, slots=True)
class Timing:
    """What one run takes on the card, in ms, and what the files take there, in bytes."""

    decode_ms: float = 0.0
    prefill_ms: float = 0.0
    post_ms: float = 0.0
    layer_bytes: int = 0
    post_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Geometry:
    """A published model, as far as counting needs it."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    timing: Timing


GEOMETRIES = {
    # Layer and post ms: facts 5.2 and 5.4. Prefill of the smaller two: 1.85 times decode (5.4).
    # Bytes: 1.11 for 4B, 1.11 for 0.6B; those of 1.7B follow from the 2.7 GB of the whole.
    "qwen3-4b": Geometry(
        *(36, 2560, 9728, 32, 8, 128, 151936),
        Timing(6.0, 11.1, 20.0, layer_bytes=118_040_663, post_bytes=424_609_063),
    ),
    "qwen3-1.7b": Geometry(
        *(28, 2048, 6144, 16, 8, 128, 151936),
        Timing(3.2, 5.9, 16.2, layer_bytes=61_000_000, post_bytes=340_000_000),
    ),
    "qwen3-0.6b": Geometry(
        *(28, 1024, 3072, 16, 8, 128, 151936),
        Timing(1.5, 2.8, 7.9, layer_bytes=23_100_000, post_bytes=170_000_000),
    ),
}


class OnnxWeights:
    """The weights in the ONNX graphs of a fp32 export."""

    def __init__(self, path: Path) -> None:
        import onnx

        self.path = path
        directory = ModelDirectory(path)
        self._tensors: dict[str, NDArray[Any]] = {}
        for file in (*directory.layers, directory.post):
            graph = onnx.load(file).graph
            for initializer in graph.initializer:
                if initializer.name.startswith(("model.", "lm_head.")):
                    array = onnx.numpy_helper.to_array(initializer)
                    self._tensors[initializer.name] = array.astype(ml_dtypes.bfloat16).T
            if file == directory.layers[0]:
                self._eps, self._theta = _read_constants(graph)
        self._tied = "lm_head.weight" not in self._tensors
        self._num_layers = len(directory.layers)

    @property
    def architecture(self) -> Architecture:
        """What the shapes say."""
        layer = "model.layers.0."
        q_norm = self._tensors.get(f"{layer}self_attn.q_norm.weight")
        if q_norm is None:
            raise ValueError("the size of a head can't be read from a Qwen2 graph")
        head_dim = len(q_norm)
        inner, hidden = self._tensors[f"{layer}mlp.gate_proj.weight"].shape
        heads = "model.embed_tokens.weight" if self._tied else "lm_head.weight"
        return Architecture(
            model_type="qwen3",
            num_layers=self._num_layers,
            hidden_size=hidden,
            intermediate_size=inner,
            num_heads=len(self._tensors[f"{layer}self_attn.q_proj.weight"]) // head_dim,
            num_kv_heads=len(self._tensors[f"{layer}self_attn.k_proj.weight"]) // head_dim,
            head_dim=head_dim,
            vocab_size=len(self._tensors[heads]),
            max_context_len=1 << 20,
            rms_norm_eps=self._eps,
            rope_theta=self._theta,
            tied=self._tied,
            qk_norm=True,
            qkv_bias=False,
            eos_token_ids=(),
        )

    def tensor(self, name: str, *shape: int) -> NDArray[Any]:
        """Read a tensor."""
        if name == "model.embed_tokens.weight" and name not in self._tensors:
            return np.fromfile(self.path / EMBEDDING_FILE, ml_dtypes.bfloat16).reshape(shape)
        tensor = self._tensors[name]
        if tensor.shape != shape:
            raise ValueError(f"{name} is {tensor.shape}, not {shape}")
        return tensor


def _read_constants(graph: Any) -> tuple[float, float]:
    """Return epsilon and RoPE's theta, from the constant of the frequencies."""
    import onnx

    norm = next(node for node in graph.node if node.op_type == "RMSNormalization")
    eps = next(item.f for item in norm.attribute if item.name == "epsilon")
    frequencies = next(
        onnx.numpy_helper.to_array(item)
        for item in graph.initializer
        if item.data_type == onnx.TensorProto.FLOAT and len(item.dims) == 1 and item.dims[0] > 1
    )
    theta = float(frequencies[1]) ** (-len(frequencies))
    return float(f"{eps:.6g}"), float(round(theta, -1))


def open_weights(path: Path) -> Weights:
    """Open a Hugging Face directory or a fp32 export."""
    return Checkpoint(path) if list(path.glob("*.safetensors")) else OnnxWeights(path)


def rope_frequencies(arch: Architecture) -> NDArray[np.float32]:
    """The angle per position of each pair of values, by the steps of ``engine.graphs``."""
    exponents = np.arange(0, arch.head_dim, 2, dtype=np.float32) / np.float32(arch.head_dim)
    frequencies: NDArray[np.float32] = np.float32(1) / np.float32(arch.rope_theta) ** exponents
    return frequencies


def pack(
    source: Path | Weights,
    out: Path,
    *,
    last_n: int = 1023,
    ladder: Sequence[int] = LADDER,
    chunk_len: int = CHUNK_LEN,
    prefix: str | None = None,
    timing: Timing = Timing(),
) -> Path:
    """Write a model directory that computes; returns ``out``.

    Args:
        source: where the weights come from.
        out: the directory, which is made.
        last_n: rows of history that decode sees.
        ladder: history capacities of the prefill groups, at most ``last_n``; 1 is the dummy row.
        chunk_len: tokens of a prefill group.
        prefix: what file names begin with; ``qwen3`` or ``qwen2`` by default.
        timing: what the cost model is to charge.
    """
    weights = open_weights(source) if isinstance(source, Path) else source
    arch = weights.architecture
    prefix = prefix or arch.model_type
    out.mkdir(parents=True, exist_ok=True)
    groups = _groups(last_n, ladder, chunk_len)
    for index in range(arch.num_layers):
        header = _header(arch, groups, timing, hollow=False)
        blobs = [_layer(weights, index), rope_frequencies(arch).astype("<f4").tobytes()]
        _write(_layer_path(out, prefix, chunk_len, index), header, blobs)
    head = "model.embed_tokens.weight" if arch.tied else "lm_head.weight"
    table = (arch.vocab_size, arch.hidden_size)
    names = [("model.norm.weight", (arch.hidden_size,)), (head, table)]
    header = _header(arch, [(1, 0)], timing, hollow=False, post=True)
    _write(out / f"{prefix}_post.axmodel", header, [_bf16(weights, names)])
    (out / EMBEDDING_FILE).write_bytes(_bf16(weights, [("model.embed_tokens.weight", table)]))
    _write_rest(out, prefix, weights.path)
    return out


def pack_hollow(
    geometry: Geometry,
    out: Path,
    *,
    last_n: int = 1023,
    ladder: Sequence[int] = LADDER,
    chunk_len: int = CHUNK_LEN,
    tokenizer: Path | None = None,
) -> Path:
    """Write a model directory that only has the shapes; the embedding table is a sparse file."""
    arch = Architecture(
        model_type="qwen3",
        num_layers=geometry.num_layers,
        hidden_size=geometry.hidden_size,
        intermediate_size=geometry.intermediate_size,
        num_heads=geometry.num_heads,
        num_kv_heads=geometry.num_kv_heads,
        head_dim=geometry.head_dim,
        vocab_size=geometry.vocab_size,
        max_context_len=1 << 20,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        tied=True,
        qk_norm=True,
        qkv_bias=False,
        eos_token_ids=(),
    )
    out.mkdir(parents=True, exist_ok=True)
    groups = _groups(last_n, ladder, chunk_len)
    header = _header(arch, groups, geometry.timing, hollow=True)
    for index in range(arch.num_layers):
        _write(_layer_path(out, "qwen3", chunk_len, index), header, [])
    header = _header(arch, [(1, 0)], geometry.timing, hollow=True, post=True)
    _write(out / "qwen3_post.axmodel", header, [])
    with (out / EMBEDDING_FILE).open("wb") as file:
        file.truncate(2 * arch.vocab_size * arch.hidden_size)
    _write_rest(out, "qwen3", tokenizer)
    return out


def _groups(last_n: int, ladder: Sequence[int], chunk_len: int) -> list[tuple[int, int]]:
    if any(capacity > last_n for capacity in ladder):
        raise ValueError(f"a prefill group can't see more than {last_n} rows: {ladder}")
    prefill = [(chunk_len, 0 if capacity == 1 else capacity) for capacity in ladder]
    return [(1, last_n), *prefill]


def _layer_path(out: Path, prefix: str, chunk_len: int, index: int) -> Path:
    return out / f"{prefix}_p{chunk_len}_l{index}_together.axmodel"


def _header(
    arch: Architecture,
    groups: Sequence[tuple[int, int]],
    timing: Timing,
    *,
    hollow: bool,
    post: bool = False,
) -> dict[str, Any]:
    layer_ms = [timing.decode_ms if chunk == 1 else timing.prefill_ms for chunk, _ in groups]
    return {
        "post": int(post),
        "hollow": int(hollow),
        "qk_norm": int(arch.qk_norm),
        "qkv_bias": int(arch.qkv_bias),
        "hidden_size": arch.hidden_size,
        "num_heads": arch.num_heads,
        "num_kv_heads": arch.num_kv_heads,
        "head_dim": arch.head_dim,
        "intermediate_size": arch.intermediate_size,
        "vocab_size": arch.vocab_size,
        "rms_norm_eps": arch.rms_norm_eps,
        "cmm_bytes": timing.post_bytes if post else timing.layer_bytes,
        "chunk_lens": [chunk for chunk, _ in groups],
        "history_lens": [history for _, history in groups],
        "device_ms": [timing.post_ms] if post else layer_ms,
    }


def _write(path: Path, header: dict[str, Any], blobs: Sequence[bytes]) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-(len(MAGIC) + 8 + len(text)) % ALIGNMENT)
    path.write_bytes(b"".join([MAGIC, struct.pack("<Q", len(text)), text, *blobs]))


def _layer(weights: Weights, index: int) -> bytes:
    """A layer's weights in the order that ``transformer.c`` reads them in."""
    arch = weights.architecture
    name, hidden, inner = f"model.layers.{index}", arch.hidden_size, arch.intermediate_size
    q_dim, kv_dim = arch.num_heads * arch.head_dim, arch.kv_dim
    attention = f"{name}.self_attn"
    names: list[tuple[str, tuple[int, ...]]] = [
        (f"{name}.input_layernorm.weight", (hidden,)),
        (f"{attention}.q_proj.weight", (q_dim, hidden)),
        (f"{attention}.k_proj.weight", (kv_dim, hidden)),
        (f"{attention}.v_proj.weight", (kv_dim, hidden)),
    ]
    if arch.qkv_bias:
        lengths = (("q", q_dim), ("k", kv_dim), ("v", kv_dim))
        names += [(f"{attention}.{letter}_proj.bias", (length,)) for letter, length in lengths]
    if arch.qk_norm:
        names += [(f"{attention}.{letter}_norm.weight", (arch.head_dim,)) for letter in "qk"]
    names += [
        (f"{attention}.o_proj.weight", (hidden, q_dim)),
        (f"{name}.post_attention_layernorm.weight", (hidden,)),
        (f"{name}.mlp.gate_proj.weight", (inner, hidden)),
        (f"{name}.mlp.up_proj.weight", (inner, hidden)),
        (f"{name}.mlp.down_proj.weight", (hidden, inner)),
    ]
    return _bf16(weights, names)


def _bf16(weights: Weights, names: Sequence[tuple[str, tuple[int, ...]]]) -> bytes:
    return b"".join(
        np.ascontiguousarray(weights.tensor(name, *shape).astype(ml_dtypes.bfloat16)).tobytes()
        for name, shape in names
    )


def _write_rest(out: Path, prefix: str, source: Path | None) -> None:
    """The tokenizer folder, and the empty ``config.json`` that the vendor ships."""
    (out / "config.json").write_bytes(b"")
    folder = out / f"{prefix}_tokenizer"
    folder.mkdir(exist_ok=True)
    if source is None:
        (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
        return
    inside = source / "tokenizer"
    for file in (inside if inside.is_dir() else source).iterdir():
        if file.is_file() and file.suffix in {".json", ".txt", ".jinja"}:
            shutil.copyfile(file, folder / file.name)


def main() -> None:
    """Pack what the command line says."""
    parser = argparse.ArgumentParser(description="Pack a model for the virtual AX650.")
    parser.add_argument("source", help=f"a directory, or one of {', '.join(GEOMETRIES)}")
    parser.add_argument("out", type=Path)
    parser.add_argument("--last-n", type=int, default=1023)
    parser.add_argument("--ladder", type=int, nargs="*", default=LADDER)
    options = parser.parse_args()
    if options.source in GEOMETRIES:
        geometry = GEOMETRIES[options.source]
        pack_hollow(geometry, options.out, last_n=options.last_n, ladder=options.ladder)
    else:
        pack(Path(options.source), options.out, last_n=options.last_n, ladder=options.ladder)


if __name__ == "__main__":
    main()
