"""The connection to the servers of a fleet: made again and again, and what goes wrong in words."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from edge_llm.errors import ConfigurationError
from edge_llm.settings import FleetSettings

if TYPE_CHECKING:  # it is there where there is a fleet
    from nats.aio.client import Client

__all__ = ["connect_fleet"]

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 2
RECONNECT_WAIT_S = 1
PING_EVERY_S = 5
MAX_PINGS = 2


@asynccontextmanager
async def connect_fleet(settings: FleetSettings, name: str) -> AsyncGenerator["Client"]:
    """Connect to a server of the fleet until the context is left, and to another if it goes.

    It waits for a server that is not there yet, and says so once.

    Raises:
        ConfigurationError: nats-py is missing, or a certificate can't be used.
    """
    try:
        from nats.aio.client import Client
        from nats.errors import Error
    except ImportError as exc:
        raise ConfigurationError(
            "a fleet needs nats-py: pip install 'edge-llm[fleet]'", param="fleet.servers"
        ) from exc
    told = False
    client = Client()
    while not client.is_connected:
        try:
            await client.connect(
                servers=list(settings.servers),
                name=name,
                user=settings.username,
                password=settings.read_password(),
                tls=_tls(settings),
                connect_timeout=CONNECT_TIMEOUT_S,
                reconnect_time_wait=RECONNECT_WAIT_S,
                max_reconnect_attempts=-1,
                ping_interval=PING_EVERY_S,
                max_outstanding_pings=MAX_PINGS,
                allow_reconnect=True,
                error_cb=_note_error,
                disconnected_cb=_note_lost,
                reconnected_cb=_note_back,
            )
        except (Error, OSError, TimeoutError) as exc:
            if not told:
                told = True
                log.error(
                    "fleet.unreachable",
                    servers=settings.servers,
                    reason=str(exc) or type(exc).__name__,
                    do="start nats-server, or correct fleet.servers; it is tried again meanwhile",
                )
            await asyncio.sleep(RECONNECT_WAIT_S)
            client = Client()
    server = client.connected_url
    log.info("fleet.connected", server=server and server.netloc)
    try:
        yield client
    finally:
        await client.close()


def _tls(settings: FleetSettings) -> ssl.SSLContext | None:
    if not any(url.startswith("tls://") for url in settings.servers):
        return None
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as exc:
        raise ConfigurationError(f"fleet.ca_file: {exc}", param="fleet.ca_file") from exc


async def _note_error(exc: Exception) -> None:
    log.debug("fleet.error", reason=str(exc) or type(exc).__name__)


async def _note_lost() -> None:
    log.info("fleet.disconnected")  # by the server, or by us at the end


async def _note_back() -> None:
    log.info("fleet.reconnected")
