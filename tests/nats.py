"""NATS servers of a test's own: one, or a cluster of three."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.programs import HOST, STOP_TIMEOUT_S, accepts, free_port, require_program, wait_until

__all__ = ["NatsServer", "nats_servers"]


@dataclass(slots=True)
class NatsServer:
    """One server."""

    name: str
    port: int
    mqtt_port: int
    config: Path
    log: Path
    process: "subprocess.Popen[bytes]" = field(init=False)

    @property
    def url(self) -> str:
        """Where NATS' own clients connect."""
        return f"nats://{HOST}:{self.port}"

    def start(self) -> None:
        """Start it, or start it again; ``wait`` returns when it listens."""
        command = [require_program("nats-server", "nats-server"), "-c", str(self.config)]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output)

    def wait(self) -> None:
        """Return when MQTT clients can connect; in a cluster that is when there are enough."""
        wait_until(lambda: accepts(self.mqtt_port), self.process, self.log)

    def kill(self) -> None:
        """Have it die at once."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End it, as systemd would."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT_S)
        self.process.kill()
        self.process.wait()


@contextmanager
def nats_servers(folder: Path, count: int = 1, *more: str) -> Iterator[list[NatsServer]]:
    """Run servers until the context is left.

    Args:
        folder: for their files.
        count: of servers.
        more: lines of the configuration.
    """
    ports = [(free_port(), free_port(), free_port()) for _ in range(count)]
    routes = ", ".join(f"nats://{HOST}:{cluster}" for _, _, cluster in ports)
    servers = []
    for number, (port, mqtt_port, cluster_port) in enumerate(ports, 1):
        name = f"n{number}"
        lines = [
            f"server_name: {name}",
            f"listen: {HOST}:{port}",
            f"jetstream {{ store_dir: {folder}/{name} }}",
            f"mqtt {{ listen: {HOST}:{mqtt_port} }}",
            *more,
        ]
        if count > 1:  # clients know all of them, and some come by a proxy
            cluster = f"name: c, listen: {HOST}:{cluster_port}, routes: [{routes}]"
            lines.append(f"cluster {{ {cluster}, no_advertise: true }}")
        config = folder / f"{name}.conf"
        config.write_text("\n".join(lines))
        servers.append(NatsServer(name, port, mqtt_port, config, folder / f"{name}.log"))
    started = []
    try:
        for server in servers:
            server.start()
            started.append(server)
        for server in servers:
            server.wait()
        yield servers
    finally:
        for server in started:
            server.stop()
