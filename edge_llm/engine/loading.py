"""Loads the model that the settings name, file by file, into a LocalEngine."""

from collections.abc import Callable
from pathlib import Path

from edge_llm.engine.generation import ModelRunner
from edge_llm.engine.local import LocalEngine
from edge_llm.engine.model import ModelDirectory
from edge_llm.engine.prompt import load_prompter
from edge_llm.errors import InvalidRequestError, ModelError
from edge_llm.npu.layer import HostLayer
from edge_llm.npu.onnx import OnnxSession
from edge_llm.protocol import ChatRequest, ModelInfo
from edge_llm.settings import EngineSettings
from edge_llm.tiny import MODEL_DIR

__all__ = ["load_engine"]

SMALL_LAYER_BYTES = 16 * 2**20  # below that, sharing a step among threads costs more than it saves
NUM_THREADS = 4  # the cores of a Raspberry Pi 5


def load_engine(
    settings: EngineSettings, report: Callable[[int, int], None] = lambda done, total: None
) -> LocalEngine:
    """Load a model; takes from a second to minutes.

    Args:
        settings: names the model directory; the built-in model otherwise.
        report: called with the files loaded and their total; may raise to give up.

    Raises:
        ModelError: names the file that is missing or broken, and the cure.
    """
    directory = ModelDirectory(settings.worker.model or MODEL_DIR)
    if directory.runtime != "onnx":
        raise ModelError(
            f"{directory.layers[0]} is made for the AX650, which this version can't drive yet; "
            "write ONNX layers with 'edge-llm export'"
        )
    prompter = load_prompter(directory.tokenizer)
    files = [*directory.layers, directory.post]
    threads = settings.worker.threads or _threads(directory.layers[0])
    sessions: list[OnnxSession] = []
    for file in files:
        report(len(sessions), len(files))
        sessions.append(OnnxSession(file, threads=threads))
    report(len(files), len(files))
    *layers, post = sessions
    geometry = directory.read_geometry(layers, post)
    if prompter.vocab_size > geometry.vocab_size:
        raise ModelError(
            f"{directory.tokenizer} has {prompter.vocab_size} tokens, but {directory.post.name} "
            f"knows {geometry.vocab_size}; it is the tokenizer of another model"
        )
    engine = LocalEngine(
        runner=ModelRunner(
            layers=[HostLayer(session) for session in layers],
            post=post,
            embedding=directory.open_embedding(geometry),
            geometry=geometry,
        ),
        prompter=prompter,
        info=ModelInfo(
            id=directory.facts.name or directory.path.resolve().name,
            context_len=geometry.context_len,
            vocab_size=prompter.vocab_size,
            quantization=directory.facts.quantization,
        ),
        settings=settings,
    )
    _warm_up(engine)
    return engine


def _warm_up(engine: LocalEngine) -> None:
    """Let the first visitor wait no longer than the tenth: templates compile, buffers are made."""
    try:
        for _ in engine.generate(ChatRequest(prompt="Hello.", max_tokens=2)):
            pass
    except InvalidRequestError as exc:
        raise ModelError(f"{engine.info.id} can't even answer a greeting: {exc}") from exc


def _threads(layer: Path) -> int:
    return 1 if layer.stat().st_size < SMALL_LAYER_BYTES else NUM_THREADS
