"""Servers, nodes and clients together."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.brokers import Proxy
from tests.fleet.crowd import Crowd, open_crowd
from tests.fleet.node import FleetNode, Pace
from tests.nats import NatsServer, nats_servers
from tests.programs import HOST

__all__ = ["World", "open_world"]


@dataclass(slots=True)
class World:
    """What there is.

    Attributes:
        servers: that run, or were killed.
        nodes: by the order of their paces.
        lines: the proxies between a node and the servers, for nodes that have some.
    """

    servers: list[NatsServer]
    nodes: list[FleetNode]
    crowd: Crowd
    lines: dict[str, list[Proxy]] = field(default_factory=dict)

    def cut_off(self, node: FleetNode) -> None:
        """Let no byte pass between a node and the servers; connections stay as they are."""
        for line in self.lines[node.name]:
            line.passes.clear()

    def reconnect(self, node: FleetNode) -> None:
        """Let the bytes pass again, those from meanwhile too, as TCP does."""
        for line in self.lines[node.name]:
            line.passes.set()


@asynccontextmanager
async def open_world(
    folder: Path,
    paces: Sequence[Pace | None],
    *,
    num_servers: int = 1,
    num_clients: int = 4,
    lease_s: float = 2.0,
    num_lined: int = 0,
    more: Sequence[str] = (),
) -> AsyncGenerator[World]:
    """Start it all, and end it all.

    Args:
        folder: for everybody's files.
        paces: one node for each; None is one with the built-in model.
        num_servers: of NATS.
        num_clients: that are connected.
        lease_s: of the fleet, in seconds.
        num_lined: how many of the nodes, from the first one on, have proxies before them.
        more: lines at the top of each node's settings.
    """
    async with AsyncExitStack() as stack:
        servers = stack.enter_context(nats_servers(folder, num_servers))
        lines: dict[str, list[Proxy]] = {}
        nodes = []
        for number, pace in enumerate(paces):
            name = f"node{number}"
            # Each begins at another server.
            known = [servers[(number + n) % num_servers] for n in range(num_servers)]
            ports = [port for server in known for port in (server.mqtt_port, server.port)]
            if number < num_lined:
                lines[name] = [await stack.enter_async_context(Proxy(port)) for port in ports]
                ports = [proxy.port for proxy in lines[name]]
            urls = [f"nats://{HOST}:{port}" for port in ports[1::2]]
            node = FleetNode(folder, name, ports[::2], urls, pace, lease_s, more)
            nodes.append(node)
            node.start()
            stack.callback(node.stop)
        await asyncio.gather(*(node.ready() for node in nodes))
        server_ports = [server.mqtt_port for server in servers]
        crowd = await stack.enter_async_context(open_crowd(server_ports, num_clients))
        try:
            yield World(servers, nodes, crowd, lines)
        finally:
            for node in nodes:  # all at once, and then each is waited for
                if node.is_running:
                    node.terminate()
