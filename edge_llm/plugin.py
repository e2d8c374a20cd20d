"""A bridge is a plugin: another door to the engine, found by its entry point.

A package that has an entry point of the group ``edge_llm.bridges`` offers a bridge under the name
of that entry point; it names a ``BridgePlugin``. ``[bridge.NAME]`` in the settings opens it.
docs/writing-a-bridge.md builds one.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from edge_llm.device import DeviceMonitor
from edge_llm.engine import Engine, EngineStats
from edge_llm.errors import ConfigurationError
from edge_llm.preset import Presets
from edge_llm.protocol import NodeHealth
from edge_llm.section import Section
from edge_llm.settings import MqttSettings, Settings, describe

__all__ = ["Bridge", "BridgeContext", "BridgePlugin", "BridgeSection", "find_bridges"]

GROUP = "edge_llm.bridges"
OWN_SECTION = ("http", "home_assistant")
"""Bridges whose settings are sections of their own."""


class BridgeSection(Section):
    """Base of a bridge's settings."""

    enabled: bool = True
    """Open it."""


SectionT = TypeVar("SectionT", bound=Section)


@dataclass(frozen=True, slots=True)
class BridgeContext:
    """The node, as a bridge sees it."""

    node: str
    """Its name."""
    engine: Engine
    """What answers. A generator that is closed cancels its request."""
    mqtt: MqttSettings = field(default_factory=MqttSettings)
    """The node's broker, for bridges that speak MQTT, too; may be switched off."""
    presets: Callable[[], Presets] = Presets
    """Its personas as they are now; a reload changes them."""
    report: Callable[[], NodeHealth] | None = None
    """How it is; None where the engine is on another machine."""
    stats: EngineStats | None = None
    """What the engine counts, and whom it tells; None as above."""
    monitor: DeviceMonitor | None = None
    """Has the readings of the device; None as above."""
    is_in_fleet: bool = False
    """There are other nodes at the same broker, which share the work."""


@dataclass(frozen=True, slots=True)
class BridgePlugin(Generic[SectionT]):
    """What an entry point names."""

    settings: type[SectionT]
    """The model of its settings; ``BridgeSection`` is a base for it."""
    open: Callable[[SectionT, BridgeContext], AbstractAsyncContextManager[object]]
    """Opens the bridge until the context is left, and may give something that tells where it is.

    A ``ConfigurationError`` at the first entry ends the start of the node. If the context ends by
    itself with an error later, the bridge is opened again; the node goes on meanwhile.
    """


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge that the settings ask for."""

    name: str
    plugin: BridgePlugin[Any]
    section: Section

    def open(self, context: BridgeContext) -> AbstractAsyncContextManager[object]:
        """Open it until the context is left."""
        return self.plugin.open(self.section, context)


def find_bridges(settings: Settings) -> list[Bridge]:
    """Return the bridges that are switched on. Those that aren't named are not even imported.

    Raises:
        ConfigurationError: one is not installed, can't be imported, or its settings are wrong.
    """
    installed = {point.name: point for point in entry_points(group=GROUP)}
    return [
        bridge
        for name, section in _asked_for(settings)
        if (bridge := _load(name, section, installed)) is not None
    ]


def _asked_for(settings: Settings) -> Iterator[tuple[str, Section | Mapping[str, Any]]]:
    for name in OWN_SECTION:
        section = getattr(settings, name)
        if section.enabled:
            yield name, section
    for name, table in settings.bridge.items():
        if name in OWN_SECTION:
            raise ConfigurationError(
                f"bridge.{name}: its settings are in a section of their own, [{name}]",
                param=f"bridge.{name}",
            )
        yield name, table


def _load(
    name: str, section: Section | Mapping[str, Any], installed: Mapping[str, EntryPoint]
) -> Bridge | None:
    if name not in installed:
        there = ", ".join(sorted(installed.keys() - set(OWN_SECTION))) or "none"
        raise ConfigurationError(
            f"bridge.{name}: no package offers a bridge of this name (installed: {there}); "
            "install the one that does, in the environment of edge-llm",
            param=f"bridge.{name}",
        )
    try:
        plugin = installed[name].load()
    except (ImportError, AttributeError) as exc:
        raise ConfigurationError(
            f"bridge.{name}: {installed[name].value} can't be imported: {exc}",
            param=f"bridge.{name}",
        ) from exc
    if not isinstance(plugin, BridgePlugin):
        raise ConfigurationError(
            f"bridge.{name}: {installed[name].value} is not a BridgePlugin", param=f"bridge.{name}"
        )
    if not isinstance(section, Section):
        section = _validate(name, plugin, section)
    return Bridge(name, plugin, section) if getattr(section, "enabled", True) else None


def _validate(name: str, plugin: BridgePlugin[Any], table: Mapping[str, Any]) -> Section:
    try:
        section: Section = plugin.settings.model_validate(dict(table))
    except ValidationError as exc:
        lines = describe(exc).split("; ")
        raise ConfigurationError(
            "; ".join(f"bridge.{name}.{line}" for line in lines), param=f"bridge.{name}"
        ) from exc
    return section
