"""edge-llm: the service that lets an art installation talk.

What programs use to ask it is here: see ``edge_llm.client``.
"""

from importlib import import_module

__all__ = [
    "ChatRequest",
    "Delta",
    "Done",
    "EdgeLLMError",
    "Message",
    "MqttRequest",
    "MqttSettings",
    "Queued",
    "RemoteEngine",
    "Started",
    "__version__",
]

__version__ = "0.1.0"

# Imported when they are asked for (PEP 562): every module of ours imports this one first. Their
# types are in __init__.pyi, as imports here would also be a cycle.
_HOMES = {
    "EdgeLLMError": "edge_llm.errors",
    "MqttSettings": "edge_llm.settings",
    "RemoteEngine": "edge_llm.client",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "edge_llm.protocol")), name)


def __dir__() -> list[str]:
    return __all__
