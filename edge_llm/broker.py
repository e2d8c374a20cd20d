"""A broker inside the process, for a first try: amqtt, which needs nothing installed.

It speaks MQTT 3.1.1 only and forgets a request that is not acknowledged within 5 s, so real
installations use mosquitto.
"""

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edge_llm.errors import ConfigurationError

__all__ = ["find_free_port", "open_broker"]

PORTS_TO_TRY = 20


@asynccontextmanager
async def open_broker(host: str = "127.0.0.1", port: int = 1883) -> AsyncIterator[int]:
    """Run a broker, and give its port: the next free one if ``port`` is taken.

    Anyone who reaches it may do anything, so it listens on loopback only.
    """
    from amqtt.broker import Broker

    # It logs each client that leaves without a word as an error, with a traceback.
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # And asyncio does where amqtt fails at closing such a connection.
    logging.getLogger("asyncio").addFilter(_is_not_amqtts)
    port = find_free_port(host, port)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}"}},
            "plugins": {
                "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
            },
        }
    )
    await broker.start()
    try:
        yield port
    finally:
        await broker.shutdown()
        logging.getLogger("asyncio").removeFilter(_is_not_amqtts)


def _is_not_amqtts(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Unhandled exception in client_connected_cb")


def find_free_port(host: str, port: int) -> int:
    """Return the first port from ``port`` on that nobody listens on.

    Raises:
        ConfigurationError: twenty in a row are taken.
    """
    for candidate in range(port, port + PORTS_TO_TRY):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((host, candidate))
            except OSError:
                continue
            return candidate
    raise ConfigurationError(f"no free port on {host} from {port} to {port + PORTS_TO_TRY - 1}")
