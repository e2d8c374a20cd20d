"""One node of a fleet, as a process of its own."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.clients import eventually
from tests.programs import HOST

__all__ = ["FleetNode", "Pace"]

STOP_TIMEOUT_S = 15.0
START_TIMEOUT_S = 60.0  # several begin at once, on few cores
JOINED, CONNECTED = '"fleet.joined"', '"mqtt.connected"'


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a rehearsed answer comes.

    Attributes:
        ttft_s: to its first token.
        tokens_per_s: after that.
        num_tokens: how long it is, at least 6.
    """

    ttft_s: float = 0.05
    tokens_per_s: float = 40.0
    num_tokens: int = 10

    @property
    def answer_s(self) -> float:
        """How long an answer takes, in seconds."""
        return self.ttft_s + (self.num_tokens - 1) / self.tokens_per_s

    def lines(self, node: str) -> list[str]:
        """Return the settings; each node says something else, to tell whose answer it is."""
        text = f"This is {node} that speaks" + " word" * (self.num_tokens - 5)
        return [
            "[engine.paced]",
            f"ttft_s = {self.ttft_s}",
            f"tokens_per_s = {self.tokens_per_s}",
            f'text = "{text}"',
        ]


@dataclass(slots=True)
class FleetNode:
    """A node: ``edge-llm serve`` with a settings file of its own.

    Args:
        folder: for its files.
        name: of the node.
        mqtt_ports: where it speaks MQTT; the second one and on if the first can't be reached.
        servers: URLs of NATS; without any, it has the broker for itself.
        pace: of its answers; without one it runs the built-in model.
        lease_s: of the fleet, in seconds.
        more: lines of its settings.
    """

    folder: Path
    name: str
    mqtt_ports: Sequence[int]
    servers: Sequence[str] = ()
    pace: Pace | None = None
    lease_s: float = 2.0
    more: Sequence[str] = ()
    process: "subprocess.Popen[bytes] | None" = None
    _read_to: int = field(default=0, init=False)

    @property
    def log(self) -> Path:
        """What it has written."""
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        """Start it, or start it again, and don't wait."""
        config = self.folder / f"{self.name}.toml"
        lines = [f'node = "{self.name}"', *self.more]
        lines += ["[log]", 'format = "json"', "[store]", f'directory = "{self.folder}"']
        first, *others = self.mqtt_ports
        lines += ["[mqtt]", f'host = "{HOST}"', f"port = {first}"]
        lines += [f"more_hosts = {[f'{HOST}:{port}' for port in others]}"]
        if self.servers:
            urls = ", ".join(f'"{url}"' for url in self.servers)
            lines += ['protocol = "3.1.1"', "[fleet]", f"servers = [{urls}]"]
            lines += [f"lease_s = {self.lease_s}"]
        if self.pace:
            lines += self.pace.lines(self.name)
        config.write_text("\n".join([*lines, ""]))
        command = [sys.executable, "-m", "edge_llm", "serve", "--no-http", "--config", str(config)]
        self._read_to = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            paced = ["--paced"] if self.pace else []
            self.process = subprocess.Popen([*command, *paced], stdout=output, stderr=output)

    @property
    def is_ready(self) -> bool:
        """Whether it has said, since it was started, that it takes requests."""
        with self.log.open() as log:
            log.seek(self._read_to)
            said = log.read()
        is_loaded = self.pace or '"model.loaded"' in said
        return bool(CONNECTED in said and (JOINED in said or not self.servers) and is_loaded)

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self.process is not None and self.process.poll() is None

    async def ready(self) -> float:
        """Wait until it takes requests; return how long that was, in seconds."""
        begin = time.monotonic()
        await eventually(
            lambda: self.is_ready or not self.is_running,
            START_TIMEOUT_S,
            lambda: self.log.read_text()[-1000:],
        )
        if not self.is_running:
            raise RuntimeError(f"{self.name} ended: {self.log.read_text()[-1000:]}")
        return time.monotonic() - begin

    def kill(self) -> None:
        """Have it die at once."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def terminate(self) -> None:
        """Ask it to end, as systemd would, and don't wait."""
        if self.process:
            self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End it, one way or the other."""
        if self.process and self.is_running:
            self.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_S)
            self.kill()
