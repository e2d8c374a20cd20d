"""MQTT on asyncio: one session at a broker, across reconnects and whatever a broker does."""

from edge_llm.mqtt.connection import MqttConnection
from edge_llm.mqtt.message import Publication, Subscription, Will

__all__ = ["MqttConnection", "Publication", "Subscription", "Will"]
