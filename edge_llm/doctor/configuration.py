"""The settings: read, and what they leave open or name that is not there."""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

from edge_llm.doctor.case import Case
from edge_llm.doctor.check import cut
from edge_llm.doctor.credstore import PLACE
from edge_llm.doctor.finding import Finding, fail, ok, skip, warn
from edge_llm.doctor.machine import Machine
from edge_llm.doctor.threads import in_thread
from edge_llm.errors import ConfigurationError, EdgeLLMError
from edge_llm.settings import Settings, find_exposures, load_settings
from edge_llm.settings.root import ENV_PREFIX

__all__ = ["INSTALLED", "examine_bridges", "examine_exposure", "examine_settings", "open_case"]

INSTALLED = Path("/etc/edge-llm/edge-llm.toml")
"""The settings of the service, which are examined if no others are named."""
AS_ROOT = "sudo edge-llm doctor"
READ_TIMEOUT_S = 3.0


async def open_case(
    config: Path | None, machine: Machine, *, model: Path | None = None, load: bool = False
) -> Case:
    """Read the settings, or as much of them as can be: what is wrong with them is in the case.

    Args:
        config: their file; the installed one if not given, and there is one.
        machine: where it is.
        model: what to examine in place of the model in the settings.
        load: whether it may be loaded.
    """
    try:
        reading = in_thread(lambda: _read(config, machine))
        file, settings, error = await asyncio.wait_for(reading, READ_TIMEOUT_S)
    except TimeoutError:
        file, settings = config, Settings.model_construct()
        error = (
            f"{config or INSTALLED} can't be read: its disk or share does not answer; see 'mount'"
        )
    return Case(settings, error, file, machine, model, load)


def _read(config: Path | None, machine: Machine) -> tuple[Path | None, Settings, str | None]:
    """Return the file that is read, and what came of it."""
    installed = machine.path(INSTALLED)
    if config is None and installed.exists():
        config = installed
    try:
        return config, load_settings(config), None
    except EdgeLLMError as exc:
        error = exc.message
    except OSError as exc:
        error = f"{config} can't be read: {exc.strerror}; {AS_ROOT}"
    return config, Settings.model_construct(), error


def examine_settings(case: Case) -> Iterable[Finding]:
    """Whether they can be read, and where they come from."""
    name = "settings.file"
    variables = sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX))
    if case.settings_error:
        wrong, cure = case.settings_error, f"mend it: sudo nano {case.config}"
        if "can't be read: " in wrong:
            wrong, cure = cut(wrong)
        elif not case.config:
            cure = f"mend {', '.join(variables)} of the environment"
        yield fail(name, wrong, cure)
        return
    source = str(case.config) if case.config else "no file, so the defaults"
    if variables:
        source += f", and {', '.join(variables)} of the environment"
    settings = case.settings
    yield ok(name, f"{source}; {len(settings.preset)} presets, {len(settings.route)} routes")
    yield from _secrets(case)


def _secrets(case: Case) -> Iterable[Finding]:
    """Whether files with secrets can be used; what is in them is not shown."""
    name = "settings.secrets"
    settings = case.settings
    for read in (settings.mqtt.read_password, settings.engine.openai.read_api_key):
        try:
            read()
        except ConfigurationError as exc:
            yield fail(name, exc.message, "see the file's owner and mode: ls -l, and sudo")
    place = case.machine.path(PLACE)
    for file in sorted(place.glob("edge-llm.*")):
        if file.stat().st_mode & 0o077:
            what = f"{PLACE / file.name} can be read by others"
            yield warn(name, what, f"sudo chmod 600 {PLACE / file.name}")


def examine_exposure(case: Case) -> Iterable[Finding]:
    """What is left open to whoever is on the network."""
    name = "settings.exposed"
    if case.settings_error:
        yield skip(name, "the settings can't be read")
        return
    exposures = find_exposures(case.settings)
    for exposure in exposures:
        yield warn(name, exposure.reason, exposure.do)
    if not exposures:
        yield ok(name, "nothing is open to the network that should not be")


def examine_bridges(case: Case) -> Iterable[Finding]:
    """Whether the bridges that the settings name are installed."""
    from edge_llm.plugin import find_bridges

    name = "settings.bridges"
    if case.settings_error:
        yield skip(name, "the settings can't be read")
        return
    try:
        bridges = find_bridges(case.settings)
    except ConfigurationError as exc:
        yield fail(name, *cut(exc.message))
        return
    yield ok(name, ", ".join(bridge.name for bridge in bridges) or "none is asked for")
