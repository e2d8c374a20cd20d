"""Opens a model directory on the runtime that fits it: sessions on the CPU, or the card."""

import contextlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from edge_llm.engine.model import Geometry, ModelDirectory
from edge_llm.errors import ConfigurationError, DeviceError, EdgeLLMError, ModelError
from edge_llm.npu.axcl import Axcl, CardGraph, CardMemory, find_axcl
from edge_llm.npu.axengine import AxEngineSession
from edge_llm.npu.card import CardStack
from edge_llm.npu.card_layer import slot_bytes, work_bytes
from edge_llm.npu.host import HostStack
from edge_llm.npu.onnx import OnnxSession
from edge_llm.npu.self_test import NUM_TOKENS, SelfTest, choose_variant
from edge_llm.npu.session import Session
from edge_llm.npu.stack import Stack
from edge_llm.settings import WorkerSettings

__all__ = [
    "MemoryPlan",
    "OpenStack",
    "choose_runtime",
    "memory_needed",
    "open_stack",
    "plan_memory",
]

Report = Callable[[int, int], None]
"""Called with the files loaded and their total; may raise to give up."""

SMALL_LAYER_BYTES = 16 * 2**20  # below that, sharing a step among threads costs more than it saves
NUM_THREADS = 4  # the cores of a Raspberry Pi 5
HOST_SLOTS_BYTES = 256 * 2**20

LAYER_WORK_BYTES = 32 * 2**20
"""What a loaded layer takes beside its file: Qwen3-4B, 1.7B and 0.6B agree on 32 to 36 MiB (C:
facts 1.12, what the card reports less files and caches)."""
RESERVE_BYTES = 256 * 2**20
"""Left free, as ax-llm leaves it."""
MIB = 2**20

SYNC_TIMEOUT_S = 30.0
"""Also of a first run, in which the card may still make its buffers."""


@dataclass(frozen=True, slots=True)
class OpenStack:
    """A loaded model, ready to run.

    Attributes:
        runtime: what runs it, and how, for people.
        why: it was taken.
        memory: what it takes of the card's memory; none without a card.
        self_test: what came of it; none where there was none.
    """

    stack: Stack
    geometry: Geometry
    runtime: str
    why: str = ""
    memory: "MemoryPlan | None" = None
    self_test: SelfTest | None = None


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a model takes of the card's memory, in bytes.

    Attributes:
        fixed_bytes: graphs and working buffers.
        slot_bytes: the KV cache of one conversation.
        num_slots: how many of them will be kept; 0 if not even one fits.
        card: what the card has.
    """

    fixed_bytes: int
    slot_bytes: int
    num_slots: int
    card: CardMemory


def open_stack(directory: ModelDirectory, settings: WorkerSettings, report: Report) -> OpenStack:
    """Load all graphs of a model; takes from a second to minutes.

    Raises:
        ConfigurationError: the runtime that is asked for can't run these files, or is missing.
        ModelError: names the file that is broken, or says how much memory is missing.
        DeviceError: the card failed.
    """
    runtime, why = choose_runtime(directory, settings)
    if runtime == "axcl":
        loaded = _open_card(directory, settings, report)
    else:
        loaded = _open_sessions(directory, settings, runtime, report)
    return replace(loaded, why=why)


def choose_runtime(
    directory: ModelDirectory, settings: WorkerSettings
) -> tuple[Literal["axcl", "axengine", "onnx"], str]:
    """Return what will run the files of a model, and why.

    Raises:
        ConfigurationError: nothing that is installed can.
    """
    wanted = settings.runtime
    if directory.runtime == "onnx":
        if wanted not in ("auto", "onnx"):
            raise ConfigurationError(
                f"runtime = {wanted!r} runs .axmodel files, but {directory.path} holds .onnx "
                "files; leave 'runtime' at auto, or point 'model' at an AX650 model"
            )
        return "onnx", "the model has .onnx files"
    if wanted == "onnx":
        raise ConfigurationError(
            f"runtime = 'onnx' can't run the .axmodel files of {directory.path}; "
            "leave 'runtime' at auto, or write ONNX layers with 'edge-llm export'"
        )
    library = find_axcl(settings.axcl_library)
    if wanted in ("auto", "axcl") and library:
        return "axcl", f"the model is for the AX650, and {library} is there"
    if wanted in ("auto", "axengine") and importlib.util.find_spec("axengine"):
        why = "it is asked for" if wanted == "axengine" else "there is no libaxcl_rt.so for a card"
        return "axengine", f"the model is for the AX650, and {why}"
    raise ConfigurationError(
        f"{directory.path} is made for the AX650, but its runtime is not installed: install "
        "AXERA's axclhost package (for a card), or give the library's path as 'axcl_library'"
    )


def memory_needed(directory: ModelDirectory, axcl: Axcl | None = None) -> int:
    """Return the bytes of card memory for the graphs alone, by the runtime's word or by facts."""
    total = 0
    for file in directory.layers:
        total += (axcl and axcl.usage(file)) or file.stat().st_size + LAYER_WORK_BYTES
    return total + ((axcl and axcl.usage(directory.post)) or directory.post.stat().st_size)


def plan_memory(
    directory: ModelDirectory,
    layer: CardGraph,
    graphs_bytes: int,
    memory: CardMemory,
    settings: WorkerSettings,
) -> MemoryPlan:
    """Return how many conversations fit beside a model whose first layer is loaded."""
    num_layers = len(directory.layers)
    slot = slot_bytes(layer, num_layers)
    fixed = graphs_bytes + work_bytes(layer, num_layers)
    spare = memory.free_bytes - fixed
    fitting = min(settings.kv_slots, max(1, (spare - RESERVE_BYTES) // slot))
    return MemoryPlan(fixed, slot, fitting if spare >= slot else 0, memory)


def _open_sessions(
    directory: ModelDirectory, settings: WorkerSettings, runtime: str, report: Report
) -> OpenStack:
    files = [*directory.layers, directory.post]
    threads = settings.threads or _threads(directory.layers[0])
    sessions: list[Session] = []
    for file in files:
        report(len(sessions), len(files))
        if runtime == "onnx":
            sessions.append(OnnxSession(file, threads=threads))
        else:
            sessions.append(AxEngineSession(file, device=settings.device))
    report(len(files), len(files))
    *layers, post = sessions
    geometry = directory.read_geometry(layers, post)
    itemsize = layers[0].inputs()["K_cache"].dtype.itemsize
    slot = 2 * geometry.num_layers * geometry.history_len * geometry.kv_dim * itemsize
    num_slots = max(1, min(settings.kv_slots, HOST_SLOTS_BYTES // slot))
    return OpenStack(HostStack(layers, post, num_slots=num_slots), geometry, runtime)


def _threads(layer: Path) -> int:
    return 1 if layer.stat().st_size < SMALL_LAYER_BYTES else NUM_THREADS


def _open_card(directory: ModelDirectory, settings: WorkerSettings, report: Report) -> OpenStack:
    files = [*directory.layers, directory.post]
    with contextlib.ExitStack() as opened:
        axcl = Axcl(str(find_axcl(settings.axcl_library)), device_index=settings.device)
        opened.callback(axcl.close)
        memory, graphs_bytes = axcl.memory(), memory_needed(directory, axcl)
        if graphs_bytes > memory.free_bytes:
            raise _too_big(directory, graphs_bytes, memory)
        graphs: list[CardGraph] = []
        for file in files:
            report(len(graphs), len(files))
            graphs.append(CardGraph(axcl, file))
            opened.callback(graphs[-1].close)
            if len(graphs) == 1:  # only a loaded graph tells its sizes
                plan = plan_memory(directory, graphs[0], graphs_bytes, memory, settings)
                if plan.num_slots == 0:
                    raise _too_big(directory, plan.fixed_bytes + plan.slot_bytes, memory)
        report(len(files), len(files))
        *layers, post = graphs
        geometry = directory.read_geometry(layers, post)
        stack = CardStack(
            axcl, layers, post, num_slots=plan.num_slots, sync_timeout_s=_sync_timeout_s(settings)
        )
        opened.pop_all()  # the stack gives all of it back
        opened.callback(stack.close)
        self_test = None
        if settings.self_test:
            self_test = _test(stack, directory, geometry, lambda: report(len(files), len(files)))
        opened.pop_all()
    return OpenStack(stack, geometry, f"axcl {axcl.version}, {stack.variant}", "", plan, self_test)


def _sync_timeout_s(settings: WorkerSettings) -> float:
    """Return when queued work is given up: soon enough for the worker to end by itself, not killed.

    It gives up before the core's third word, which is SIGKILL: see ``engine.worker.spawn``.
    """
    return SYNC_TIMEOUT_S if settings.hang_timeout_s is None else settings.hang_timeout_s / 2


def _test(
    stack: CardStack, directory: ModelDirectory, geometry: Geometry, report: Callable[[], None]
) -> SelfTest:
    num_tokens = min(NUM_TOKENS, geometry.history_len)
    token_ids = np.random.RandomState(0).randint(0, geometry.vocab_size, num_tokens)
    rows = directory.open_embedding(geometry).rows(token_ids)
    return choose_variant(stack, rows, geometry.groups, report)


def _too_big(directory: ModelDirectory, needed: int, memory: CardMemory) -> EdgeLLMError:
    """Return what is wrong: with the model, or with what else is in the card's memory.

    The latter may be the remains of a process that was killed; those go with a reboot of the card.
    """
    text = (
        f"{directory.path} needs {needed // MIB} MiB of the card's memory, but only "
        f"{memory.free_bytes // MIB} of {memory.total_bytes // MIB} MiB are free; "
    )
    if needed > memory.total_bytes:
        return ModelError(f"{text}take a smaller model or a shorter context")
    return DeviceError(f"{text}stop what else uses the card, or reboot it")
