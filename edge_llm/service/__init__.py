"""The MQTT front end: topics in, exactly one final message out for each request."""

from edge_llm.service.intake import Rules
from edge_llm.service.service import Service

__all__ = ["Rules", "Service"]
