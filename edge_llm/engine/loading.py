"""Loads the model that the settings name, file by file, into a LocalEngine."""

from collections.abc import Callable

from edge_llm.engine.generation import ModelRunner
from edge_llm.engine.local import LocalEngine
from edge_llm.engine.model import ModelDirectory
from edge_llm.engine.prompt import load_prompter
from edge_llm.engine.stacks import OpenStack, open_stack
from edge_llm.errors import InvalidRequestError, ModelError
from edge_llm.protocol import ChatRequest, ModelInfo
from edge_llm.settings import EngineSettings
from edge_llm.tiny import MODEL_DIR

__all__ = ["load_engine"]


def load_engine(
    settings: EngineSettings, report: Callable[[int, int], None] = lambda done, total: None
) -> LocalEngine:
    """Load a model; takes from a second to minutes.

    Args:
        settings: names the model directory; the built-in model otherwise.
        report: called with the files loaded and their total; may raise to give up.

    Raises:
        ModelError: names the file that is missing or broken, and the cure.
        ConfigurationError: the runtime that is asked for is missing.
        DeviceError: the card failed.
    """
    directory = ModelDirectory(settings.worker.model_directory() or MODEL_DIR)
    prompter = load_prompter(directory.tokenizer)
    loaded = open_stack(directory, settings.worker, report)
    geometry = loaded.geometry
    try:
        if prompter.vocab_size > geometry.vocab_size:
            raise ModelError(
                f"{directory.tokenizer} has {prompter.vocab_size} tokens, but "
                f"{directory.post.name} knows {geometry.vocab_size}; it is the tokenizer of "
                "another model: copy the one that came with this model"
            )
        engine = LocalEngine(
            runner=ModelRunner(loaded.stack, directory.open_embedding(geometry), geometry),
            prompter=prompter,
            info=ModelInfo(
                id=directory.facts.name or directory.path.resolve().name,
                context_len=geometry.context_len,
                vocab_size=prompter.vocab_size,
                quantization=directory.facts.quantization,
                runtime=loaded.runtime,
                kv_slots=loaded.stack.num_slots,
                max_tokens=min(settings.max_tokens, geometry.context_len),
                has_thinking=prompter.has_thinking,
                has_tools=prompter.has_tools,
            ),
            settings=settings,
            loaded=_describe(loaded),
        )
        _warm_up(engine)
    except BaseException:
        loaded.stack.close()
        raise
    return engine


def _describe(loaded: OpenStack) -> dict[str, str]:
    said = {"why": loaded.why}
    if test := loaded.self_test:
        rejected = "; ".join(f"not {variant}: {why}" for variant, why in test.rejected)
        said["self_test"] = f"{test.num_tokens} tokens agree after {test.duration_s:.1f} s"
        if rejected:
            said["rejected"] = rejected
    return said


def _warm_up(engine: LocalEngine) -> None:
    """Let the first visitor wait no longer than the tenth: templates compile, buffers are made."""
    try:
        for _ in engine.generate(ChatRequest(prompt="Hello.", max_tokens=2)):
            pass
    except InvalidRequestError as exc:
        raise ModelError(f"{engine.info.id} can't even answer a greeting: {exc}") from exc
    engine.runner.measure()
    engine.forget_conversations()  # nobody will go on with that one
