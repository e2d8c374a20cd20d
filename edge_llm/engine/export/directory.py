"""Hugging Face weights to a model directory of ONNX graphs, in the vendor's layout."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge_llm import __version__
from edge_llm.engine.export.checkpoint import Architecture, Checkpoint
from edge_llm.engine.export.quantization import Bits
from edge_llm.engine.model import EMBEDDING_FILE
from edge_llm.errors import ConfigurationError, ModelError

__all__ = ["Quantization", "export_model", "shape_groups"]

Quantization = Literal["fp32", "int8", "int4"]

BITS: dict[Quantization, tuple[Bits, Bits]] = {"fp32": (None, None), "int8": (8, 8), "int4": (4, 8)}
"""How the linear layers are stored, and how the logits' one is."""

DEFAULT_CONTEXT_LEN = 2048
"""Decode reads the whole history for each token, so what the model could do is not the default."""

DECODE_CHUNK_LEN = 1
SHORT_CHUNK_LEN = 16
"""For the few new tokens of a turn whose prefix is kept; a padded long chunk takes far longer."""

NO_HISTORY_LEN = 1
"""The capacity for a first chunk: a masked row, as in the vendor's graphs. Without any row, ONNX
Runtime up to 1.28 ends the process in a fused MatMul (SIGFPE)."""

FIRST_HISTORY_LEN = 128

MAX_GRAPH_BYTES = 1_500_000_000
"""Beyond this the weights go to a file of their own: a protobuf message ends at 2 GB."""

EMBEDDING_SLAB_ROWS = 8192

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "config.json",
)

Progress = Callable[[int, int], None]
"""Called with how many graphs are written, and of how many."""


def export_model(
    source: Path,
    out: Path,
    *,
    quantize: Quantization = "fp32",
    context_len: int | None = None,
    chunk_len: int = 128,
    name: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a model directory that runs on the CPU; blocks for seconds to minutes.

    Args:
        source: a Hugging Face directory of a Qwen2, Qwen2.5 or Qwen3 model, with safetensors.
        out: the model directory; appears only when it is complete.
        quantize: how linear layers are stored; the logits' one is int8 also in int4.
        context_len: most tokens of prompt and answer; at most the model's own.
        chunk_len: longest prefill chunk in tokens.
        name: what the model is called; the source's name by default.
        overwrite: replace what is at ``out``.
        progress: told of each graph; by default a bar is drawn if there is a terminal.

    Raises:
        ConfigurationError: an argument is out of range, ``out`` is taken, or the disk is full.
        ModelError: the source can't be exported.
    """
    _check_extra()
    checkpoint = Checkpoint(source)
    context_len = _check_lengths(checkpoint.architecture, context_len, chunk_len)
    _check_out(out, overwrite)
    with _written_whole(out) as partial:
        _copy_tokenizer(source, partial / "tokenizer")
        _write_embedding(checkpoint, partial / EMBEDDING_FILE)
        groups = shape_groups(context_len, chunk_len)
        _write_graphs(checkpoint, partial, groups, quantize, progress)
        _write_facts(checkpoint, partial / "config.json", name, quantize, context_len)


def shape_groups(context_len: int, chunk_len: int) -> tuple[tuple[int, int], ...]:
    """Return ``(chunk_len, history_len)`` of decode, then of prefill with growing histories."""
    history_len = context_len - 1
    ladder = [NO_HISTORY_LEN]
    capacity = FIRST_HISTORY_LEN
    while capacity < history_len:
        ladder.append(capacity)
        capacity *= 2
    ladder = sorted({*ladder, history_len})
    chunks = sorted({min(SHORT_CHUNK_LEN, chunk_len), chunk_len} - {DECODE_CHUNK_LEN})
    return (
        (DECODE_CHUNK_LEN, history_len),
        *((chunk, capacity) for chunk in chunks for capacity in ladder),
    )


def _check_extra() -> None:
    for module in ("ml_dtypes", "onnx", "safetensors", "tqdm"):
        if find_spec(module) is None:
            raise ConfigurationError(
                f"{module} is not installed; exporting needs: pip install 'edge-llm[export]'"
            )


def _check_out(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ConfigurationError(f"{out} is not empty; choose another directory, or overwrite it")
    if not (out / EMBEDDING_FILE).is_file():  # a slip of the hand must not delete a home directory
        raise ConfigurationError(f"{out} is not a model directory, so it is not overwritten")


def _check_lengths(arch: Architecture, context_len: int | None, chunk_len: int) -> int:
    """Return the context length to export."""
    if context_len is None:
        context_len = min(arch.max_context_len, DEFAULT_CONTEXT_LEN)
    if not 2 <= context_len <= arch.max_context_len:
        raise ConfigurationError(
            f"a context of {context_len} tokens can't be had; this model takes 2 to "
            f"{arch.max_context_len}"
        )
    if not 1 <= chunk_len <= context_len:
        raise ConfigurationError(
            f"a chunk of {chunk_len} tokens does not fit; choose 1 to {context_len}, the context"
        )
    return context_len


@contextmanager
def _written_whole(out: Path) -> Iterator[Path]:
    """Give a directory beside ``out`` that takes its place at the end, or is removed."""
    partial = out.absolute().parent / f".{out.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
        partial.mkdir(parents=True)
        yield partial
        if out.is_dir():
            shutil.rmtree(out)
        partial.rename(out)
    except OSError as exc:
        raise ConfigurationError(
            f"can't write {out} ({exc}); free some space, or choose another place"
        ) from exc
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_tokenizer(source: Path, out: Path) -> None:
    out.mkdir()
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    if not (out / "tokenizer.json").exists() and not (out / "merges.txt").exists():
        raise ModelError(
            f"there is no tokenizer.json (nor vocab.json and merges.txt) in {source}; download the "
            "model again"
        )


def _write_embedding(checkpoint: Checkpoint, path: Path) -> None:
    """Write the embedding table as bare bfloat16 rows, rounded to the nearest, ties to even."""
    import ml_dtypes

    arch = checkpoint.architecture
    table = checkpoint.tensor("model.embed_tokens.weight", arch.vocab_size, arch.hidden_size)
    with path.open("wb") as file:
        for start in range(0, len(table), EMBEDDING_SLAB_ROWS):
            rows = table[start : start + EMBEDDING_SLAB_ROWS]
            file.write(np.ascontiguousarray(rows.astype(ml_dtypes.bfloat16)).tobytes())


def _write_graphs(
    checkpoint: Checkpoint,
    out: Path,
    groups: tuple[tuple[int, int], ...],
    quantize: Quantization,
    progress: Progress | None,
) -> None:
    from edge_llm.engine.export.graphs import make_layer, make_post

    arch = checkpoint.architecture
    layer_bits, post_bits = BITS[quantize]
    chunk_len = groups[-1][0]
    total = arch.num_layers + 1
    with _bar(total, progress) as tell:
        for index in range(arch.num_layers):
            file = out / f"{arch.model_type}_p{chunk_len}_l{index}_together.onnx"
            _write_graph(make_layer(checkpoint, index, layer_bits, groups), file)
            tell(index + 1, total)
        post = make_post(checkpoint, post_bits)
        _write_graph(post, out / f"{arch.model_type}_post.onnx")
        tell(total, total)


@contextmanager
def _bar(total: int, progress: Progress | None) -> Iterator[Progress]:
    """Give the caller's progress function, or one that draws a bar."""
    if progress is not None:
        yield progress
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="graph", disable=None) as bar:  # None: only on a terminal
        yield lambda done, _: bar.update(done - bar.n)


def _write_graph(model: Any, path: Path) -> None:
    import onnx

    size_bytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    onnx.save_model(
        model,
        path,
        save_as_external_data=size_bytes > MAX_GRAPH_BYTES,
        location=f"{path.name}.data",
    )


def _write_facts(
    checkpoint: Checkpoint, path: Path, name: str | None, quantize: Quantization, context_len: int
) -> None:
    facts = {
        "model_name": name or checkpoint.path.resolve().name,
        "model_type": checkpoint.architecture.model_type,
        "quantization": quantize,
        "context_len": context_len,
        "eos_token_id": _eos_token_ids(checkpoint),
        "exported_by": f"edge-llm {__version__}",
    }
    path.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")


def _eos_token_ids(checkpoint: Checkpoint) -> list[int]:
    """Return what ends a text: chat models list more in generation_config than in config."""
    try:
        text = (checkpoint.path / "generation_config.json").read_text("utf-8")
        ids = json.loads(text)["eos_token_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return list(checkpoint.architecture.eos_token_ids)
    return ids if isinstance(ids, list) else [ids]
