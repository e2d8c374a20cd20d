from edge_llm.client import RemoteEngine
from edge_llm.errors import EdgeLLMError
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Message,
    MqttRequest,
    Queued,
    Started,
)
from edge_llm.settings import MqttSettings

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

__version__: str
