"""Home Assistant: the node as a device there, by MQTT discovery."""

from bridges.home_assistant.announcement import Announcement
from bridges.home_assistant.bridge import (
    PLUGIN,
    open_home_assistant,
    remove_from_home_assistant,
)

__all__ = ["PLUGIN", "Announcement", "open_home_assistant", "remove_from_home_assistant"]
