"""``edge-llm settings``: a whole settings file to begin with, and whether one is right."""

import argparse
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from edge_llm.settings import Settings, load_settings
from edge_llm.settings.root import ENV_PREFIX

__all__ = ["DEFAULT_FILE", "add"]

DEFAULT_FILE = Path("/etc/edge-llm/edge-llm.toml")
"""Where the installed service has it."""
NOT_SHOWN = "********"


def add(commands: Any) -> None:
    """Add the command."""
    settings = commands.add_parser(
        "settings",
        help="print a settings file, or check one",
        description="Print a settings file that has every setting with its default, commented out; "
        "or say whether a file is right, and what differs from the defaults.",
    )
    what = settings.add_mutually_exclusive_group()
    what.add_argument(
        "--check",
        nargs="?",
        const=DEFAULT_FILE,
        type=Path,
        metavar="FILE",
        help="say whether this file and the environment are right, and what differs from the "
        f"defaults; passwords are not shown. Without FILE it is {DEFAULT_FILE}, if that is there",
    )
    what.add_argument("--markdown", action="store_true", help="print docs/configuration.md")
    settings.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    from edge_llm.settings.reference import settings_file, settings_page

    if args.check:
        return _check(args.check)
    print((settings_page if args.markdown else settings_file)(_plugins()), end="")
    return 0


def _plugins() -> dict[str, type[BaseModel]]:
    """Return the models of the settings of all bridges that are installed and can be imported."""
    from edge_llm.plugin import GROUP, OWN_SECTION, BridgePlugin

    found = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if point.name in OWN_SECTION:
            continue
        with suppress(ImportError, AttributeError):  # serve says so, if it is asked for
            plugin = point.load()
            if isinstance(plugin, BridgePlugin):
                found[point.name] = plugin.settings
    return found


def _check(path: Path) -> int:
    from edge_llm.plugin import find_bridges

    file = None if path == DEFAULT_FILE and not path.exists() else path
    settings = load_settings(file)
    # What is in the table of a bridge that is switched off may be secret, too.
    tables: dict[str, object] = {f"bridge.{name}": {"enabled": False} for name in settings.bridge}
    tables |= {f"bridge.{bridge.name}": bridge.section for bridge in find_bridges(settings)}
    changes = list(_changes(settings, Settings.model_construct(), "", tables))
    print(f"{file or 'What the environment says'} is right.")
    print("Other than by default:" if changes else "All is as by default.")
    for path_of_key, value in changes:
        variable = ENV_PREFIX + path_of_key.upper().replace(".", "__")
        is_variable = variable in {name.upper() for name in os.environ}
        print(f"  {path_of_key} = {value}{f'  ({variable})' if is_variable else ''}")
    return 0


def _changes(
    value: object, default: object, path: str, known: Mapping[str, object]
) -> Iterator[tuple[str, str]]:
    """Yield the path and the value of each setting that is not as by default.

    What is ``known`` of a path stands for what is there: a bridge's settings for its table, so that
    it is clear which of them are secret.
    """
    value = known.get(path, value)
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            inner = f"{path}.{name}" if path else name
            yield from _changes(getattr(value, name), _default(default, value, name), inner, known)
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _changes(entry, None, f"{path}.{name}", known)
    elif isinstance(value, tuple) and any(isinstance(entry, BaseModel) for entry in value):
        for number, entry in enumerate(value, 1):
            yield from _changes(entry, None, f"{path}.{number}", known)
    elif value != default:
        yield path, _shown(value)


def _default(default: object, value: BaseModel, name: str) -> object:
    if isinstance(default, BaseModel):
        return getattr(default, name)
    field = type(value).model_fields[name]
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return NOT_SHOWN
    text = json.dumps(value, ensure_ascii=False, default=str)
    return re.sub(r"(://)[^/@\s\"]*@", rf"\1{NOT_SHOWN}@", text)
