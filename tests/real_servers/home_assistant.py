"""Home Assistant with its MQTT integration and no other: ``home_assistant.py PORT CONFIG_DIR``.

Runs in an environment of its own. It answers each line of its standard input with a line of JSON:
``states`` (by entity), ``devices``, ``press ENTITY``, ``configure YAML`` (as a string in JSON),
``set ENTITY STATE``, ``type ENTITY TEXT``, ``calls`` (of what would speak or be shown),
``complaints`` (what it logged as a warning or worse). Without web server and recorder it is there
within seconds.
"""

# ruff: noqa: E402 (its modules must find the stand-ins)

import asyncio
import json
import logging
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest.mock import MagicMock

# Its cloud and Bluetooth: imported everywhere, used by nothing here. The one needs 100 MB of
# packages, the other a C compiler.
for name in ("hass_nabucasa", "habluetooth"):
    sys.modules[name] = MagicMock()

from homeassistant import loader
from homeassistant.config_entries import ConfigEntries, ConfigEntry, ConfigEntryState
from homeassistant.core import CoreState, HomeAssistant, ServiceCall
from homeassistant.helpers import (
    area_registry,
    category_registry,
    device_registry,
    entity,
    entity_registry,
    floor_registry,
    frame,
    issue_registry,
    label_registry,
    restore_state,
    template,
    translation,
)
from homeassistant.helpers.storage import get_internal_store_manager
from homeassistant.setup import async_setup_component
from homeassistant.util.yaml import parse_yaml

REGISTRIES = (
    area_registry,
    category_registry,
    device_registry,
    entity_registry,
    floor_registry,
    issue_registry,
    label_registry,
    restore_state,
)


SERVICES = (("tts", "speak"), ("persistent_notification", "create"))
CALLS: list[Any] = []


class Complaints(logging.Handler):
    """Keeps what is logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # With a broker that answers at once, it finds fault with how its own MQTT is written.
        if record.name != "homeassistant.helpers.frame":
            self.lines.append(self.format(record))


async def open_home_assistant(port: int, folder: Path) -> HomeAssistant:
    """Start what its bootstrap starts before any integration, and then MQTT."""
    (folder / "configuration.yaml").touch()
    hass = HomeAssistant(str(folder))
    hass.config.skip_pip = True
    hass.config_entries = ConfigEntries(hass, {})
    loader.async_setup(hass)
    for module in (entity, frame, template, translation):
        module.async_setup(hass)
    await asyncio.gather(
        get_internal_store_manager(hass).async_initialize(),
        *(registry.async_load(hass) for registry in REGISTRIES),
        hass.config_entries.async_initialize(),
    )
    hass.config.components |= {"http", "file_upload"}  # MQTT wants them for its dialogs only
    hass.set_state(CoreState.running)
    entry = ConfigEntry(
        version=2,
        minor_version=1,
        domain="mqtt",
        title="MQTT",
        data={"broker": "127.0.0.1", "port": port},
        options={},
        source="user",
        unique_id=None,
        discovery_keys=MappingProxyType({}),
        subentries_data=(),
    )
    await hass.config_entries.async_add(entry)
    await hass.async_block_till_done()
    if entry.state is not ConfigEntryState.LOADED:
        sys.exit(f"MQTT is {entry.state}: {entry.reason}")
    return hass


async def note_call(call: ServiceCall) -> None:
    """Stand in for what speaks and shows."""
    CALLS.append([f"{call.domain}.{call.service}", call.data])


async def answer(hass: HomeAssistant, complaints: Complaints, line: str) -> Any:
    """Do what a line asks for."""
    command, _, about = line.partition(" ")
    said: Any = None
    match command:
        case "states":
            said = {state.entity_id: state.as_dict() for state in hass.states.async_all()}
        case "devices":
            said = [device.name for device in device_registry.async_get(hass).devices.values()]
        case "press":
            domain = about.partition(".")[0]
            await hass.services.async_call(domain, "press", {"entity_id": about}, blocking=True)
        case "configure":
            for domain, service in SERVICES:
                hass.services.async_register(domain, service, note_call)
            config = parse_yaml(json.loads(about))
            said = all([await async_setup_component(hass, domain, config) for domain in config])
        case "set":
            hass.states.async_set(*about.split(" "))
        case "type":
            entity_id, _, value = about.partition(" ")
            data = {"entity_id": entity_id, "value": value}
            await hass.services.async_call("input_text", "set_value", data, blocking=True)
        case "calls":
            said = CALLS
        case "complaints":
            said = complaints.lines
        case _:
            raise ValueError(line)
    return said


async def main(port: str, folder: str) -> None:
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    hass = await open_home_assistant(int(port), Path(folder))
    print(json.dumps("ready"), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        said = await answer(hass, complaints, line.strip())
        print(json.dumps(said, default=str), flush=True)
    await hass.async_stop(force=True)


asyncio.run(main(*sys.argv[1:]))
