"""A node and a broker as the documentation speaks of them: on this machine, at default ports."""

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.docs.blocks import ROOT, read_blocks
from tests.docs.network import Network
from tests.programs import require_program, running

__all__ = ["merge", "open_node", "settings_of"]

PERSONAS = "docs/buttons.md"
MORE = "\n[bridge.osc]\n"


@contextmanager
def open_node(network: Network, clone: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Run mosquitto as we ship it, and a node with the built-in model, until the context is left.

    The node has the personas and routes of docs/buttons.md, none of them the default one, and the
    bridge for Open Sound Control.
    """
    folder = clone.parent / "node"
    folder.mkdir()
    broker = folder / "mosquitto.conf"
    shipped = (ROOT / "mosquitto" / "edge-llm.conf").read_text()
    # In the network everybody is root, if only there; mosquitto would become somebody else.
    more = f"\npersistence_location {folder}/\nuser root\n"
    broker.write_text(shipped + more)
    settings = folder / "edge-llm.toml"
    text = (ROOT / PERSONAS).read_text()
    [*blocks] = (block for block in read_blocks(PERSONAS, text) if block.language == "toml")
    lines = (line for block in blocks for line in block.code.splitlines())
    kept = [line for line in lines if not line.startswith("default_preset")]
    settings.write_text("\n".join([*kept, MORE]))
    mosquitto = [*network.enter, require_program("mosquitto", "mosquitto"), "-c", str(broker)]
    serve = [*network.enter, "edge-llm", "serve", "--config", str(settings)]
    said = {"mosquitto": folder / "mosquitto.log", "serve": folder / "serve.log"}
    variables = {**environment, "XDG_STATE_HOME": str(folder)}

    def is_ready() -> bool:
        events = ("mqtt.connected", "http.started", "model.loaded")
        return all(f'"{event}"' in said["serve"].read_text() for event in events)

    def listens() -> bool:
        return "running" in said["mosquitto"].read_text()

    with (
        running(mosquitto, said["mosquitto"], listens, variables),
        running(serve, said["serve"], is_ready, variables),
    ):
        yield


def settings_of(blocks: list[str]) -> dict[str, Any]:
    """Return what several blocks of TOML say together; a later one wins."""
    together: dict[str, Any] = {}
    for block in blocks:
        merge(together, tomllib.loads(block))
    return together


def merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add tables to tables, and lists to lists; anything else is replaced."""
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            merge(into[name], value)
        elif isinstance(value, list) and isinstance(into.get(name), list):
            into[name] = [*into[name], *(entry for entry in value if entry not in into[name])]
        else:
            into[name] = value
