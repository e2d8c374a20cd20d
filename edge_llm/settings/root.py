"""All settings together: defaults < TOML file < environment < command line."""

import re
import socket
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from edge_llm.preset import Preset
from edge_llm.route import Route, find_conflict
from edge_llm.section import TopicLevel
from edge_llm.settings.device import DeviceSettings
from edge_llm.settings.engine import EngineSettings
from edge_llm.settings.fleet import FleetSettings
from edge_llm.settings.home_assistant import HomeAssistantSettings
from edge_llm.settings.http import HttpSettings
from edge_llm.settings.log import LogSettings
from edge_llm.settings.mqtt import MqttSettings
from edge_llm.settings.recovery import RecoverySettings
from edge_llm.settings.store import SessionSettings, StoreSettings
from edge_llm.topics import Topics

__all__ = [
    "ENV_PREFIX",
    "Settings",
]

ENV_PREFIX = "EDGE_LLM_"


def _default_node() -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:64] or "edge-llm"


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    node: TopicLevel = Field(default_factory=_default_node)
    """This node's name, in its topics and its MQTT client id; the host's name by default."""
    mqtt: MqttSettings = MqttSettings()
    http: HttpSettings = HttpSettings()
    engine: EngineSettings = EngineSettings()
    device: DeviceSettings = DeviceSettings()
    recovery: RecoverySettings = RecoverySettings()
    fleet: FleetSettings = FleetSettings()
    home_assistant: HomeAssistantSettings = HomeAssistantSettings()
    bridge: Mapping[TopicLevel, Mapping[str, Any]] = {}
    """Further doors, each with the settings of its own: ``[bridge.osc]``. One runs if it is named
    here, and ``enabled = false`` is not said."""
    log: LogSettings = LogSettings()
    store: StoreSettings = StoreSettings()
    session: SessionSettings = SessionSettings()
    preset: dict[TopicLevel, Preset] = {}
    """Personas: ``[preset.oracle]``."""
    default_preset: str | None = None
    """The persona of requests that name none."""
    route: tuple[Route, ...] = ()
    """Buttons and sensors that ask without code: ``[[route]]``."""

    @model_validator(mode="after")
    def _has_its_presets(self) -> Self:
        known = ", ".join(self.preset) or "none"
        if self.default_preset is not None and self.default_preset not in self.preset:
            raise ValueError(
                f"default_preset: there is no preset {self.default_preset!r} (there are: {known})"
            )
        for route in self.route:
            if route.preset is not None and route.preset not in self.preset:
                raise ValueError(
                    f"route {route.id!r}: there is no preset {route.preset!r} (there are: {known})"
                )
        return self

    @model_validator(mode="after")
    def _has_no_loops(self) -> Self:
        if conflict := find_conflict(self.route, Topics(self.mqtt.prefix, self.node)):
            raise ValueError(conflict)
        return self

    @model_validator(mode="after")
    def _fits_its_fleet(self) -> Self:
        if not self.fleet.servers:
            return self
        if not self.mqtt.enabled:
            raise ValueError("fleet: it needs [mqtt], at the MQTT door of one of its servers")
        for name, text in (("node", self.node), ("mqtt.prefix", self.mqtt.prefix)):
            if "." in text:
                raise ValueError(f"{name}: NATS takes no '.' in a topic: give it another name")
        if self.mqtt.ack != "response":
            raise ValueError('fleet: mqtt.ack must be "response", or requests could be lost')
        return self

    @model_validator(mode="after")
    def _has_a_door(self) -> Self:
        if not (self.mqtt.enabled or self.http.enabled):
            raise ValueError("both mqtt and http are switched off: there is nothing to serve")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: what the command line says, the environment, the file."""
        file = cls.model_config.get("toml_file")
        sources = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, file)) if file else sources
