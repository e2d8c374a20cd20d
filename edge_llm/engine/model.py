"""A model directory: its files, its geometry, its embedding table.

The layout is the vendor's, as published: one graph per layer (``<prefix>_p128_l0_together``), one
for the final norm and the logits (``<prefix>_post``), the embedding table as bare bfloat16 rows,
and a tokenizer folder. The graphs are ``.axmodel`` or ``.onnx`` files. Names and geometry are
found, never assumed: the vendor's own ``config.json`` is often empty.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_llm.errors import ModelError
from edge_llm.npu.session import Graph, TensorInfo

__all__ = [
    "EMBEDDING_FILE",
    "LAYER_INPUTS",
    "LAYER_OUTPUTS",
    "EmbeddingTable",
    "Geometry",
    "ModelDirectory",
    "ModelFacts",
]

EMBEDDING_FILE = "model.embed_tokens.weight.bfloat16.bin"

LAYER_INPUTS = ("K_cache", "V_cache", "indices", "input", "mask")
LAYER_OUTPUTS = ("K_cache_out", "V_cache_out", "output")
"""Tensors of a layer's graph, in the vendor's order."""

LAYER_NAME = re.compile(
    r"(?P<prefix>[^.].*?)(?:_p\d+)?_l(?P<index>\d+)(?:_together)?\.(axmodel|onnx)"
)
"""Not ``._qwen3_p128_l0_together.axmodel``, which macOS leaves beside a file on a foreign disk."""

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
CURE = "export or copy the model again"
MOST_ROWS_PER_TOKEN = 1.1
"""Qwen's tables have a row per logit. Of the next larger size they have 1.14 rows or more."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes of a model, as its graphs say them."""

    num_layers: int
    hidden_size: int
    kv_dim: int
    """Values of one K or V row: KV heads times the size of a head."""
    history_len: int
    """Rows of the KV cache that decode sees (the vendor's lastN)."""
    context_len: int
    """Most tokens of a sequence: the history and the token that is being decoded."""
    vocab_size: int
    groups: tuple[tuple[int, int], ...]
    """``(chunk_len, history_len)`` of each shape group; group 0 is decode."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model directory says about itself beside its graphs; each may be unknown."""

    name: str | None = None
    quantization: str | None = None
    context_len: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    num_layers: int | None = None


class EmbeddingTable:
    """The rows that turn token ids into hidden states, read from disk as they are asked for."""

    def __init__(self, path: Path, hidden_size: int) -> None:
        row_bytes = 2 * hidden_size
        size_bytes = path.stat().st_size
        if size_bytes == 0 or size_bytes % row_bytes:
            raise ModelError(
                f"{path} has {size_bytes} bytes, which is no multiple of the {row_bytes} bytes of "
                f"a row of hidden size {hidden_size}; it is cut off or of another model: {CURE}"
            )
        self._path = path
        self._table = np.memmap(path, np.uint16, "r", shape=(size_bytes // row_bytes, hidden_size))

    @property
    def num_rows(self) -> int:
        """How many token ids there are; the vocabulary, or a little more."""
        return int(self._table.shape[0])

    def rows(self, token_ids: ArrayLike) -> NDArray[np.float32]:
        """Return the hidden states ``(n, hidden)`` of ``n`` token ids.

        Raises:
            ModelError: a token id is past the table: the tokenizer belongs to another model.
        """
        ids = np.asarray(token_ids, np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < self.num_rows:
            raise ModelError(
                f"{self._path} has {self.num_rows} rows, but the tokenizer gave the token id "
                f"{ids.max() if ids.min() >= 0 else ids.min()}; it belongs to another model: {CURE}"
            )
        # bfloat16 is the upper half of a float32.
        return (self._table[ids].astype(np.uint32) << 16).view(np.float32)


class ModelDirectory:
    """The files of one model.

    Attributes:
        path: the directory itself.
        prefix: what the names of the graphs begin with.
        runtime: what runs the graphs.
        layers: the graphs of the layers, in order.
        post: the graph of the final norm and the logits.
        embedding: the embedding table.
        tokenizer: the folder with ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``.
        facts: what ``config.json`` says, if there is one.

    Raises:
        ModelError: names the file that is missing or broken, and the cure.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ModelError(f"there is no model directory {path}; check the setting 'model'")
        self.path = path
        self.layers = _find_layers(path)
        named = LAYER_NAME.fullmatch(self.layers[0].name)
        self.prefix = named["prefix"] if named else ""
        suffix = self.layers[0].suffix
        self.runtime: Literal["axmodel", "onnx"] = "onnx" if suffix == ".onnx" else "axmodel"
        self.post = path / f"{self.prefix}_post{suffix}"
        self.embedding = path / EMBEDDING_FILE
        for file in (*self.layers, self.post, self.embedding):
            _check_file(file)
        self.tokenizer = _find_tokenizer(path, self.prefix)
        self.facts = _read_facts(path / "config.json")
        if self.facts.num_layers not in (None, len(self.layers)):
            raise ModelError(
                f"{path} has {len(self.layers)} layers, but its config.json tells of "
                f"{self.facts.num_layers}; {CURE}"
            )

    def open_embedding(self, geometry: Geometry) -> EmbeddingTable:
        """Map the embedding table, and check that it has a row for each token of the vocabulary."""
        table = EmbeddingTable(self.embedding, geometry.hidden_size)
        # Rows of a wider model would be read as more rows of this one, and give nonsense.
        if not 1 <= table.num_rows / geometry.vocab_size <= MOST_ROWS_PER_TOKEN:
            raise ModelError(
                f"{self.embedding} has {table.num_rows} rows, but {self.post.name} knows "
                f"{geometry.vocab_size} tokens; one of them is of another model: {CURE}"
            )
        return table

    def read_geometry(self, layers: Sequence[Graph], post: Graph) -> Geometry:
        """Read the sizes from this directory's loaded graphs.

        Raises:
            ModelError: a graph breaks the contract, or differs from the others.
        """
        first = _read_layer(self.layers[0], layers[0])
        for path, layer in zip(self.layers[1:], layers[1:], strict=True):
            if _read_layer(path, layer) != first:
                raise ModelError(
                    f"{path} has other shapes than {self.layers[0].name}; it is of another "
                    f"model: {CURE}"
                )
        hidden_size, kv_dim, groups = first
        history_len = groups[0][1]
        return Geometry(
            num_layers=len(layers),
            hidden_size=hidden_size,
            kv_dim=kv_dim,
            history_len=history_len,
            context_len=history_len + 1,
            vocab_size=_read_vocab_size(self.post, post, hidden_size),
            groups=groups,
        )


def _find_layers(path: Path) -> tuple[Path, ...]:
    """Find the layers' graphs, which must be those of one model, without a gap."""
    models: dict[tuple[str, str], dict[int, Path]] = {}
    for file in sorted(path.iterdir()):
        if named := LAYER_NAME.fullmatch(file.name):
            models.setdefault((named["prefix"], file.suffix), {})[int(named["index"])] = file
    if not models:
        raise ModelError(
            f"there are no layers (<prefix>_p128_l0_together.axmodel or .onnx) in {path}; point "
            "'model' at the folder that has them, or write one with 'edge-llm export'"
        )
    if len(models) > 1:
        names = " and ".join(f"{prefix}*{suffix}" for prefix, suffix in models)
        raise ModelError(f"there are several models in {path}: {names}; move all but one elsewhere")
    layers = next(iter(models.values()))
    for index in range(max(layers) + 1):
        if index not in layers:
            near = next(iter(layers.values())).name
            missing = re.sub(r"_l\d+(?=[_.])", f"_l{index}", near)
            raise ModelError(f"{path / missing} is missing, but later layers are there; {CURE}")
    return tuple(layers[index] for index in range(len(layers)))


def _check_file(path: Path) -> None:
    """Refuse what a broken download leaves behind."""
    if not path.is_file():
        raise ModelError(f"{path} is missing; {CURE}")
    with path.open("rb") as file:
        head = file.read(len(LFS_POINTER))
    if not head:
        raise ModelError(f"{path} is empty; {CURE}")
    if head == LFS_POINTER:
        raise ModelError(
            f"{path} is a Git LFS pointer, not the file itself; run 'git lfs pull' where it was "
            "cloned, or download it with 'hf download'"
        )


def _find_tokenizer(path: Path, prefix: str) -> Path:
    """Find the tokenizer folder: in the model directory, or beside it as in the vendor's clones."""
    beside = [folder for folder in path.absolute().parent.glob("*tokenizer*") if folder.is_dir()]
    for folders in ([path], [folder for folder in path.iterdir() if folder.is_dir()], beside):
        found = sorted(folder for folder in folders if _has_tokenizer(folder))
        # The vendor's Qwen3 clones hold qwen2.5_tokenizer next to qwen3_tokenizer.
        found = [folder for folder in found if folder.name.startswith(prefix)] or found
        if len(found) > 1:
            names = ", ".join(str(folder) for folder in found)
            raise ModelError(
                f"there are several tokenizers for {path}: {names}; remove all but one"
            )
        if found:
            for name in ("tokenizer.json", "vocab.json", "merges.txt"):
                if (found[0] / name).exists():
                    _check_file(found[0] / name)
            return found[0]
    raise ModelError(
        f"there is no tokenizer folder (with tokenizer.json) in {path}; copy it from the model's "
        f"Hugging Face repository to {path / 'tokenizer'}"
    )


def _has_tokenizer(path: Path) -> bool:
    bpe = (path / "vocab.json").is_file() and (path / "merges.txt").is_file()
    return bpe or (path / "tokenizer.json").is_file()


def _read_facts(path: Path) -> ModelFacts:
    """Read what a ``config.json`` of ours, of ax-llm or of Hugging Face has of the facts."""
    if not path.is_file() or not (text := path.read_text("utf-8", "replace").strip()):
        return ModelFacts()
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ModelError(f"{path} is not JSON ({exc}); mend or delete it") from exc
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a JSON object; mend or delete it")
    eos = config.get("eos_token_id", config.get("eos"))
    eos_ids = eos if isinstance(eos, list) else [eos]
    return ModelFacts(
        name=_fact(config, "model_name", str),
        quantization=_fact(config, "quantization", str),
        context_len=_fact(config, "context_len", int),
        eos_token_ids=tuple(token_id for token_id in eos_ids if type(token_id) is int),
        num_layers=_fact(config, "axmodel_num", int),  # ax-llm's
    )


def _fact(config: Mapping[str, Any], key: str, kind: type) -> Any:
    value = config.get(key)
    return value if type(value) is kind else None  # to Python true is an int


def _read_layer(path: Path, session: Graph) -> tuple[int, int, tuple[tuple[int, int], ...]]:
    """Return hidden size, KV width and shape groups of a layer's graph."""
    groups = []
    for group in range(session.num_groups):
        inputs, outputs = session.inputs(group), session.outputs(group)
        missing = [name for name in LAYER_INPUTS if name not in inputs]
        missing += [name for name in LAYER_OUTPUTS if name not in outputs]
        if missing:
            raise ModelError(f"{path} is not a layer: it has no tensor {missing[0]!r}; {CURE}")
        _check_axes(path, [inputs[name] for name in ("K_cache", "V_cache", "input", "mask")])
        chunk_len = inputs["input"].shape[1]
        if inputs["indices"].shape != (1, chunk_len):
            raise ModelError(
                f"{path} takes positions of shape {inputs['indices'].shape}: a vision model, which "
                "is not supported; use a text model"
            )
        # The mask says it, not K_cache: a group without history has a dummy row there.
        groups.append((chunk_len, inputs["mask"].shape[-1] - chunk_len))
    if groups[0][0] != 1 or groups[0][1] < 1:
        raise ModelError(f"{path}: its first shape group {groups[0]} does not decode; {CURE}")
    hidden_size, kv_dim = session.inputs()["input"].shape[-1], session.inputs()["K_cache"].shape[-1]
    return hidden_size, kv_dim, tuple(groups)


def _check_axes(path: Path, tensors: Iterable[TensorInfo]) -> None:
    """Check that tensors have the contract's three axes, none of them empty."""
    for tensor in tensors:
        if len(tensor.shape) != 3 or 0 in tensor.shape:
            raise ModelError(
                f"{path}: its tensor {tensor.name!r} has the shape {tensor.shape}, which is not "
                f"that of a language model; {CURE}"
            )


def _read_vocab_size(path: Path, session: Graph, hidden_size: int) -> int:
    """Return how many logits the post graph gives."""
    inputs, outputs = session.inputs(), session.outputs()
    if len(outputs) != 1 or "input" not in inputs:
        raise ModelError(
            f"{path} does not turn 'input' into logits alone; build it without '--post_topk'"
        )
    (logits,) = outputs.values()
    _check_axes(path, [inputs["input"], logits])
    if inputs["input"].shape[-1] != hidden_size:
        raise ModelError(
            f"{path} takes hidden size {inputs['input'].shape[-1]}, but the layers have "
            f"{hidden_size}; it is of another model: {CURE}"
        )
    return logits.shape[-1]
