"""Names of models as Ollama has them: with a tag, which is ``latest`` if there is no other."""

from bridges.http.bridge import Bridge
from edge_llm.errors import UnknownModelError
from edge_llm.protocol import ModelInfo

__all__ = ["find_model", "full_name", "name_asked"]

LATEST = ":latest"


def full_name(model: ModelInfo) -> str:
    """Return the name with its tag."""
    return model.id if ":" in model.id else f"{model.id}{LATEST}"


def find_model(bridge: Bridge, name: str | None) -> ModelInfo | None:
    """Return the model that is meant, with or without ``:latest``; none while the first one loads.

    Raises:
        UnknownModelError: in the words that Ollama's clients look for.
    """
    try:
        return bridge.find_model(name.removesuffix(LATEST) if name else None)
    except UnknownModelError as exc:
        known = ", ".join(full_name(model) for model in bridge.engine.models)
        raise UnknownModelError(
            f"model '{name}' not found (there are: {known})", param="model"
        ) from exc


def name_asked(bridge: Bridge, name: str | None) -> str:
    """Return the name that the reply has: the request's, also if it is an alias."""
    if name:
        return name
    models = bridge.engine.models
    return full_name(models[0]) if models else bridge.node
