"""What Home Assistant is told of a node: one message, which describes a device and its entities.

The form is that of device discovery, of Home Assistant 2024.11 and later:
https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

import json
import re
from collections.abc import Collection

from bridges.home_assistant.component import Component
from bridges.home_assistant.components import (
    button_components,
    card_components,
    node_components,
)
from edge_llm import __version__
from edge_llm.settings import HomeAssistantSettings
from edge_llm.topics import Topics

__all__ = ["Announcement", "discovery_topic"]


class Announcement:
    """The message for one node.

    Args:
        settings: how it is to appear.
        topics: the node's.
        commands: those that it takes on its command topic; each is a button.
    """

    def __init__(
        self, settings: HomeAssistantSettings, topics: Topics, commands: Collection[str] = ()
    ) -> None:
        self.topic = discovery_topic(settings, topics.node)
        self._settings = settings
        self._topics = topics
        self._commands = commands

    def payload(self, *, has_card: bool) -> bytes:
        """Return the message, in JSON.

        Entities of a card are described only if there is one. They are not taken away if there is
        none, as it may be late.
        """
        topics, id_ = self._topics, _device_id(self._topics.node)
        components = {
            **(card_components() if has_card else {}),
            **node_components(topics, last_answer=self._settings.last_answer),
            **button_components(topics, self._commands, has_card=has_card),
        }
        message = {
            "device": {
                "identifiers": [id_],
                "name": self._settings.name or f"edge-llm {topics.node}",
                "manufacturer": "edge-llm",
                "model": "Language model",
                "sw_version": __version__,
            },
            "origin": {"name": "edge-llm", "sw_version": __version__},
            "availability_topic": topics.status,  # "online" or "offline", as is the default there
            "state_topic": topics.health,
            "components": {key: _identified(one, id_, key) for key, one in components.items()},
        }
        return json.dumps(message, ensure_ascii=False).encode()


def discovery_topic(settings: HomeAssistantSettings, node: str) -> str:
    """Return where the announcement of a node is retained."""
    return f"{settings.prefix}/device/{_device_id(node)}/config"


def _device_id(node: str) -> str:
    # Home Assistant takes no dots in discovery topics.
    return "edge_llm_" + re.sub(r"[^A-Za-z0-9_-]", "_", node)


def _identified(component: Component, device_id: str, key: str) -> Component:
    # What has nothing but a platform is taken away.
    if len(component) == 1:
        return component
    return {**component, "unique_id": f"{device_id}_{key}"}
