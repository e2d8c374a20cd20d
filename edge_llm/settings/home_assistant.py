"""The node as a device in Home Assistant."""

from typing import Annotated

from pydantic import Field

from edge_llm.section import Section, TopicPrefix

__all__ = ["HomeAssistantSettings"]


class HomeAssistantSettings(Section):
    """The node as a device in Home Assistant, by MQTT discovery."""

    enabled: bool = False
    """Announce the node."""
    prefix: TopicPrefix = "homeassistant"
    """Home Assistant's discovery prefix."""
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """What the device is called there; ``edge-llm <node>`` if not given."""
    last_answer: bool = True
    """Also tell the latest answer, with its full text; whoever may read the broker reads it."""
