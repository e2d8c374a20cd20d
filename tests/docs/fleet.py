"""A small fleet as docs/fleet.md speaks of it: on this machine, at default ports."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.docs.blocks import ROOT
from tests.docs.network import Network
from tests.programs import require_program, running

__all__ = ["open_fleet"]

NODES = ("stage-left", "stage-right")
SERVER = """\
server_name: fleet1
listen: 127.0.0.1:4222
jetstream { store_dir: FOLDER/nats }
mqtt { listen: 127.0.0.1:1883 }
"""
SETTINGS = {
    "EDGE_LLM_MQTT__PROTOCOL": "3.1.1",
    "EDGE_LLM_FLEET__SERVERS": '["nats://127.0.0.1:4222"]',
    "EDGE_LLM_ENGINE__KIND": "paced",
    "EDGE_LLM_ENGINE__PACED__TTFT_S": "0.05",
    "EDGE_LLM_ENGINE__PACED__TOKENS_PER_S": "200",
    "EDGE_LLM_HTTP__ENABLED": "false",
}


@contextmanager
def open_fleet(network: Network, clone: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Run nats-server, two nodes, and mosquitto with the bridge that we ship, until it is left.

    All is without accounts and TLS, which the private network has no need of.
    """
    folder = clone.parent / "fleet"
    folder.mkdir()
    with ExitStack() as opened:

        def start(name: str, command: list[str], ready: str, more: Mapping[str, str]) -> None:
            log = folder / f"{name}.log"
            variables = {**environment, "XDG_STATE_HOME": str(folder / name), **more}
            whole = [*network.enter, *command]
            opened.enter_context(running(whole, log, lambda: ready in log.read_text(), variables))

        server = folder / "nats.conf"
        server.write_text(SERVER.replace("FOLDER", str(folder)))
        program = require_program("nats-server", "nats-server")
        start("server", [program, "-c", str(server)], "Server is ready", {})
        for node in NODES:
            variables = {**SETTINGS, "EDGE_LLM_NODE": node}
            start(node, ["edge-llm", "serve"], "fleet.joined", variables)
        bridge = folder / "bridge.conf"
        bridge.write_text(_bridge(folder))
        program = require_program("mosquitto", "mosquitto")
        # It says nothing of its bridge being up; the nodes' retained states come through it.
        start("bridge", [program, "-v", "-c", str(bridge)], "llm/node/stage-right/status", {})
        yield


def _bridge(folder: Path) -> str:
    """Return the bridge that we ship, to a server without TLS and accounts."""
    shipped = (ROOT / "nats" / "mosquitto-bridge.conf").read_text().splitlines()
    kept = [line for line in shipped if not line.startswith(("bridge_cafile", "remote_"))]
    text = "\n".join(kept).replace("address fleet.local:8883", "address 127.0.0.1:1883")
    # In the network everybody is root, if only there.
    return f"{text}\nremote_clientid bridge\nuser root\npersistence_location {folder}/\n"
