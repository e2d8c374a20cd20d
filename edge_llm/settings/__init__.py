"""Settings, one frozen section per part: defaults < TOML file < environment.

``EDGE_LLM_MQTT__HOST=broker.local`` sets ``host`` of section ``[mqtt]``. A key that does not exist
is refused by name, in the file and in the environment.
"""

from edge_llm.settings.device import DeviceSettings, ThermalSettings
from edge_llm.settings.engine import (
    BackupSettings,
    EngineSettings,
    OpenAISettings,
    PacedSettings,
    QueueSettings,
    WorkerSettings,
)
from edge_llm.settings.exposure import Exposure, find_exposures
from edge_llm.settings.fleet import FleetSettings
from edge_llm.settings.home_assistant import HomeAssistantSettings
from edge_llm.settings.http import ApiKeySettings, HttpSettings, PageSettings
from edge_llm.settings.load import describe, load_settings
from edge_llm.settings.log import LogSettings
from edge_llm.settings.mqtt import ClientSettings, Command, MqttSettings, TlsSettings
from edge_llm.settings.recovery import RecoverySettings
from edge_llm.settings.root import Settings
from edge_llm.settings.store import SessionSettings, StoreSettings

__all__ = [
    "ApiKeySettings",
    "BackupSettings",
    "ClientSettings",
    "Command",
    "DeviceSettings",
    "EngineSettings",
    "Exposure",
    "FleetSettings",
    "HomeAssistantSettings",
    "HttpSettings",
    "LogSettings",
    "MqttSettings",
    "OpenAISettings",
    "PacedSettings",
    "PageSettings",
    "QueueSettings",
    "RecoverySettings",
    "SessionSettings",
    "Settings",
    "StoreSettings",
    "ThermalSettings",
    "TlsSettings",
    "WorkerSettings",
    "describe",
    "find_exposures",
    "load_settings",
]
