"""Says of a model directory what a maker wants to know before waiting for it to load."""

from collections.abc import Iterator

from edge_llm.engine.model import EmbeddingTable, Geometry, ModelDirectory
from edge_llm.engine.stacks import (
    MIB,
    MemoryPlan,
    choose_runtime,
    memory_needed,
    open_stack,
    plan_memory,
)
from edge_llm.errors import EdgeLLMError, ModelError
from edge_llm.npu.axcl import Axcl, CardGraph, find_axcl
from edge_llm.npu.onnx import OnnxSession
from edge_llm.npu.session import Graph
from edge_llm.settings import WorkerSettings

__all__ = ["examine"]

Line = tuple[str, str]
"""A heading, and what there is to say; ``no runtime`` is what keeps the model from running."""

LAYER_S, BYTES_PER_S = 0.4e-3, 21.1e9
"""Seconds for each layer, and how fast weights are read: a line through the published times of
Qwen3-4B, 1.7B and 0.6B per layer (C: facts 5.2)."""
CHUNK_FACTOR = 1.85  # a chunk of 128 tokens, in decode steps (Qwen3-4B)


def examine(directory: ModelDirectory, settings: WorkerSettings, *, load: bool) -> Iterator[Line]:
    """Yield what can be said, the quick things first.

    Args:
        directory: whose files are there and no obvious wreckage.
        settings: the runtime to use.
        load: load all of it and run the self-test, as the service would: minutes, and the card's
            memory.

    Raises:
        ModelError: a file is broken.
        DeviceError: the card failed.
    """
    files = [*directory.layers, directory.post]
    size = sum(file.stat().st_size for file in files)
    kind = f"{len(directory.layers)} layers, {size / 1e6:.0f} MB of {files[0].suffix} files"
    yield "model", f"{directory.path}: {kind}"
    yield "tokenizer", str(directory.tokenizer)
    try:
        runtime, why = choose_runtime(directory, settings)
    except EdgeLLMError as exc:
        yield "no runtime", exc.message
        yield from _guess(directory)
        yield from _speed(directory)
        return
    yield "chosen", f"{runtime}: {why}"
    if load:
        yield from _load(directory, settings)
    elif runtime == "axcl":
        yield from _look(directory, settings)
    elif runtime == "onnx":
        yield "runtime", "ONNX Runtime on the CPU"
        layer, post = OnnxSession(directory.layers[0]), OnnxSession(directory.post)
        yield from _geometry(directory, _read_geometry(directory, layer, post))
    else:
        yield "runtime", "axengine"
        yield from _guess(directory)
    if runtime != "onnx":
        yield from _speed(directory)


def _look(directory: ModelDirectory, settings: WorkerSettings) -> Iterator[Line]:
    """Load the first layer and the last graph, which tell the sizes of all."""
    with Axcl(str(find_axcl(settings.axcl_library)), device_index=settings.device) as axcl:
        memory = axcl.memory()
        yield "runtime", f"AXCL {axcl.version}, firmware {memory.firmware}"
        graphs_bytes = memory_needed(directory, axcl)
        layer, post = CardGraph(axcl, directory.layers[0]), CardGraph(axcl, directory.post)
        yield from _geometry(directory, _read_geometry(directory, layer, post))
        yield from _memory(plan_memory(directory, layer, graphs_bytes, memory, settings))
        layer.close()
        post.close()


def _load(directory: ModelDirectory, settings: WorkerSettings) -> Iterator[Line]:
    """Load all of it, as the service would."""
    loaded = open_stack(directory, settings, lambda done, total: None)
    loaded.stack.close()
    yield "runtime", loaded.runtime
    yield from _geometry(directory, loaded.geometry)
    if loaded.memory:
        yield from _memory(loaded.memory)
    if test := loaded.self_test:
        yield "self-test", f"{test.num_tokens} tokens agree, {test.duration_s:.1f} s"
        for variant, why in test.rejected:
            yield "rejected", f"{variant}: {why}"


def _read_geometry(directory: ModelDirectory, layer: Graph, post: Graph) -> Geometry:
    return directory.read_geometry([layer] * len(directory.layers), post)


def _geometry(directory: ModelDirectory, geometry: Geometry) -> Iterator[Line]:
    table = directory.open_embedding(geometry)
    yield (
        "geometry",
        f"hidden {geometry.hidden_size}, K and V rows of {geometry.kv_dim}, vocabulary "
        f"{geometry.vocab_size} ({table.num_rows} rows of embedding)",
    )
    yield "context", f"{geometry.context_len} tokens; {_chunks(geometry)}"


def _chunks(geometry: Geometry) -> str:
    lengths = sorted({length for length, _ in geometry.groups[1:]})
    if not lengths:
        return "prompts are computed token by token, which is slow"
    furthest = max(history + length for length, history in geometry.groups[1:])
    chunks = " and ".join(str(length) for length in lengths)
    rest = "" if furthest >= geometry.context_len else ", token by token after that"
    return f"prompts by chunks of {chunks} up to token {furthest}{rest}"


def _memory(plan: MemoryPlan) -> Iterator[Line]:
    card = plan.card
    yield "card", f"{card.free_bytes // MIB} of {card.total_bytes // MIB} MiB were free"
    kept = f"{plan.num_slots} will be" if plan.num_slots else "that does not fit"
    each = f"{plan.slot_bytes / MIB:.0f} MiB for each conversation that is kept"
    yield "memory", f"{plan.fixed_bytes // MIB} MiB, and {each}: {kept}"


def _speed(directory: ModelDirectory) -> Iterator[Line]:
    step_s = sum(LAYER_S + file.stat().st_size / BYTES_PER_S for file in directory.layers)
    chunk_s = CHUNK_FACTOR * step_s
    step_s += directory.post.stat().st_size / BYTES_PER_S
    yield (
        "speed",
        f"about {1 / step_s:.1f} tokens/s, and {chunk_s:.2f} s for each 128 tokens of a prompt "
        "(estimated from the files' sizes)",
    )


def _guess(directory: ModelDirectory) -> Iterator[Line]:
    """Without a runtime nothing reads the graphs; the tokenizer's vocabulary tells the rest."""
    from edge_llm.engine.prompt import load_prompter

    vocab_size = load_prompter(directory.tokenizer).vocab_size
    size = directory.embedding.stat().st_size
    padded = -(-vocab_size // 128) * 128  # as Qwen pads it
    if size % (2 * padded):
        raise ModelError(
            f"{directory.embedding} has {size} bytes, which does not divide by {padded} tokens of "
            f"{directory.tokenizer}: one of them is cut off, or of another model; copy it again"
        )
    hidden_size = size // (2 * padded)
    EmbeddingTable(directory.embedding, hidden_size)
    yield "geometry", f"hidden {hidden_size}, vocabulary {padded} (from the embedding table)"
    yield "memory", f"about {memory_needed(directory) // MIB} MiB, and the conversations"
