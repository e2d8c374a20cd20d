"""A small fleet as docs/fleet.md speaks of it: on this machine, at default ports."""

from collections.abc import Callable, Iterator, Mapping
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

        def start(name: str, command: list[str], is_ready: Callable[[], bool], **more: str) -> None:
            variables = {**environment, "XDG_STATE_HOME": str(folder / name), **more}
            log = folder / f"{name}.log"
            opened.enter_context(running([*network.enter, *command], log, is_ready, variables))

        def said(what: str, *names: str) -> bool:
            return all(what in (folder / f"{name}.log").read_text() for name in names)

        server = folder / "nats.conf"
        server.write_text(SERVER.replace("FOLDER", str(folder)))
        program = require_program("nats-server", "nats-server")
        start("nats", [program, "-c", str(server)], lambda: said("Server is ready", "nats"))
        for number, node in enumerate(NODES, 1):
            begun = NODES[:number] if number == len(NODES) else ()  # all of them at a time
            start(
                node,
                ["edge-llm", "serve"],
                lambda begun=begun: said("fleet.joined", *begun),  # type: ignore[misc]
                **SETTINGS,
                EDGE_LLM_NODE=node,
            )
        bridge = folder / "bridge.conf"
        bridge.write_text(_bridge(folder))
        program = require_program("mosquitto", "mosquitto")
        # It says nothing of its bridge being up; what nodes retain comes through it then.
        come = "llm/node/stage-right/status"
        start("bridge", [program, "-v", "-c", str(bridge)], lambda: said(come, "bridge"))
        yield


def _bridge(folder: Path) -> str:
    """Return the bridge that we ship, to a server without TLS and accounts."""
    shipped = (ROOT / "nats" / "mosquitto-bridge.conf").read_text().splitlines()
    kept = [line for line in shipped if not line.startswith(("bridge_cafile", "remote_"))]
    text = "\n".join(kept).replace("address fleet.local:8883", "address 127.0.0.1:1883")
    # In the network everybody is root, if only there.
    return f"{text}\nremote_clientid bridge\nuser root\npersistence_location {folder}/\n"
