"""NATS servers of a test's own: one, or a cluster of three."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.programs import HOST, accepts, free_port, require_program, running

__all__ = ["NatsServer", "nats_servers"]


@dataclass(frozen=True, slots=True)
class NatsServer:
    """One server."""

    name: str
    port: int
    mqtt_port: int
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        """Where NATS' own clients connect."""
        return f"nats://{HOST}:{self.port}"

    def kill(self) -> None:
        """Have it die at once."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def nats_servers(folder: Path, count: int = 1) -> Iterator[list[NatsServer]]:
    """Run servers until the context is left."""
    program = require_program("nats-server", "nats-server")
    ports = [(free_port(), free_port(), free_port()) for _ in range(count)]
    routes = ", ".join(f"nats://{HOST}:{cluster}" for _, _, cluster in ports)
    servers = []
    with ExitStack() as stack:
        for number, (port, mqtt_port, cluster_port) in enumerate(ports, 1):
            name = f"n{number}"
            lines = [
                f"server_name: {name}",
                f"listen: {HOST}:{port}",
                f"jetstream {{ store_dir: {folder}/{name} }}",
                f"mqtt {{ listen: {HOST}:{mqtt_port} }}",
            ]
            if count > 1:
                lines.append(
                    f"cluster {{ name: c, listen: {HOST}:{cluster_port}, routes: [{routes}] }}"
                )
            config = folder / f"{name}.conf"
            config.write_text("\n".join(lines))
            log = folder / f"{name}.log"
            process = stack.enter_context(
                running([program, "-c", str(config)], log, lambda p=mqtt_port: accepts(p), None)  # type: ignore[misc]
            )
            servers.append(NatsServer(name, port, mqtt_port, process))
        yield servers
