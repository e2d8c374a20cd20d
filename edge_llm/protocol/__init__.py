"""Payloads: what crosses MQTT, the worker's socket and, translated, HTTP.

The wire types are the engine's types: a request that validates here is what ``Engine.generate``
takes, and the events that it yields are what a reply is made of.
"""

from edge_llm.protocol.event import (
    Delta,
    Done,
    Event,
    FinishReason,
    Queued,
    Started,
    Timing,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
    Usage,
    join_tool_calls,
)
from edge_llm.protocol.formats import (
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
    RegexFormat,
    ResponseFormat,
    TextFormat,
)
from edge_llm.protocol.health import (
    ACTIVITIES,
    CardHealth,
    Counts,
    EngineState,
    FaultReport,
    FleetHealth,
    Heat,
    HostHealth,
    NodeHealth,
    QueueHealth,
    RecoveryReport,
    RecoveryStep,
)
from edge_llm.protocol.message import Message, Role
from edge_llm.protocol.node import PROTOCOL_VERSION, ModelInfo, NodeInfo
from edge_llm.protocol.options import AnswerOptions
from edge_llm.protocol.parse import is_json, parse_mqtt_request, translate, validate
from edge_llm.protocol.reply import DeltaPayload, ErrorBody, EventPayload, Response
from edge_llm.protocol.request import ChatRequest, MqttRequest
from edge_llm.protocol.tools import (
    FunctionCall,
    FunctionDefinition,
    NamedFunction,
    NamedTool,
    Tool,
    ToolCall,
    ToolChoice,
)
from edge_llm.protocol.wire import MAX_PAYLOAD_BYTES, NonEmptyText, Told, Wire

__all__ = [
    "ACTIVITIES",
    "MAX_PAYLOAD_BYTES",
    "PROTOCOL_VERSION",
    "AnswerOptions",
    "CardHealth",
    "ChatRequest",
    "Counts",
    "Delta",
    "DeltaPayload",
    "Done",
    "EngineState",
    "ErrorBody",
    "Event",
    "EventPayload",
    "FaultReport",
    "FinishReason",
    "FleetHealth",
    "FunctionCall",
    "FunctionDefinition",
    "Heat",
    "HostHealth",
    "JsonObjectFormat",
    "JsonSchema",
    "JsonSchemaFormat",
    "Message",
    "ModelInfo",
    "MqttRequest",
    "NamedFunction",
    "NamedTool",
    "NodeHealth",
    "NodeInfo",
    "NonEmptyText",
    "QueueHealth",
    "Queued",
    "RecoveryReport",
    "RecoveryStep",
    "RegexFormat",
    "Response",
    "ResponseFormat",
    "Role",
    "Started",
    "TextFormat",
    "Timing",
    "TokenLogprob",
    "Told",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolChoice",
    "TopLogprob",
    "Usage",
    "Wire",
    "is_json",
    "join_tool_calls",
    "parse_mqtt_request",
    "translate",
    "validate",
]
