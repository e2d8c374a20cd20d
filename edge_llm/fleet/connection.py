"""The connection to the servers of a fleet: made again and again, and what goes wrong in words."""

import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog

from edge_llm.errors import ConfigurationError
from edge_llm.settings import FleetSettings

if TYPE_CHECKING:  # it is there where there is a fleet
    from nats.aio.client import Client

__all__ = ["NOT_PERMITTED", "REFUSED", "connect_fleet", "connect_once"]

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 2
RECONNECT_WAIT_S = 1
PING_EVERY_S = 5
MAX_PINGS = 2

NOT_PERMITTED, REFUSED = "permissions violation", "authorization violation"
"""As nats-server says it."""
DO = {
    "unreachable": "start nats-server, or correct fleet.servers or fleet.ca_file; it is tried "
    "again meanwhile",
    "refused": "correct fleet.username and fleet.password_file, or give the servers that account: "
    "edge-llm nats-user add --node NAME; it is tried again meanwhile",
    "not_permitted": "give the account the rights of a node: nats/edge-llm-rights.conf",
}


@asynccontextmanager
async def connect_fleet(
    settings: FleetSettings, name: str, on_lost: Callable[[], None] = lambda: None
) -> AsyncGenerator["Client"]:
    """Connect to a server of the fleet until the context is left, and to another if it goes.

    It waits for a server that is not there yet, or that refuses us, and says so once.
    ``on_lost`` is called when one has gone that we were connected to.

    Raises:
        ConfigurationError: nats-py is missing, or a certificate or the password can't be used.
    """
    client, trouble = _make_client(is_tls=settings.is_tls), _Trouble(settings, on_lost)
    await client.connect(
        servers=list(settings.servers),
        name=name,
        **_access(settings),
        reconnect_time_wait=RECONNECT_WAIT_S,
        max_reconnect_attempts=-1,  # also before it is connected for the first time
        ping_interval=PING_EVERY_S,
        max_outstanding_pings=MAX_PINGS,
        allow_reconnect=True,
        error_cb=trouble.note,
        disconnected_cb=trouble.note_lost,
        reconnected_cb=trouble.note_back,
    )
    trouble.is_connected = True
    server = client.connected_url
    log.info("fleet.connected", server=server and server.netloc)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def connect_once(settings: FleetSettings, server: str, name: str) -> AsyncGenerator["Client"]:
    """Connect to a server until the context is left; nothing is tried again.

    Raises:
        ConfigurationError: nats-py is missing, or a certificate or the password can't be used.
        nats.errors.Error: the server does not want us, or does not speak as it should.
        OSError: it can't be reached.
        TimeoutError: it does not answer.
    """
    client, is_connected = _make_client(is_tls=settings.is_tls), False

    async def give_up(exc: Exception) -> None:
        if not is_connected:  # else it would try again, whatever it is told
            raise exc

    try:
        await client.connect(
            servers=[server],
            name=name,
            **_access(settings),
            allow_reconnect=False,
            error_cb=give_up,
        )
        is_connected = True
        yield client
    finally:
        await client.close()


def _access(settings: FleetSettings) -> dict[str, Any]:
    """Return how any server of the fleet is spoken to.

    Raises:
        ConfigurationError: a certificate or the password can't be used.
    """
    return {
        "user": settings.username,
        "password": settings.read_password(),
        "tls": _tls(settings),
        "connect_timeout": CONNECT_TIMEOUT_S,
    }


def _make_client(*, is_tls: bool) -> "Client":
    try:
        from nats.aio.client import Client
        from nats.errors import Error
    except ImportError as exc:
        raise ConfigurationError(
            "a fleet needs nats-py: pip install 'edge-llm[fleet]'", param="fleet.servers"
        ) from exc

    class TlsClient(Client):
        """Says nothing to a server that does not speak TLS.

        nats-py 2.16 goes on without, also for ``tls://``, where the server's first line does not
        ask for it: whoever is in between could leave that out, and would be told the password.
        """

        def _connect_command(self) -> bytes:
            if not self._server_info.get("tls_required"):
                raise Error("the server does not speak TLS")
            return super()._connect_command()

    return TlsClient() if is_tls else Client()


class _Trouble:
    """What is wrong, told once, and again after it was well."""

    def __init__(self, settings: FleetSettings, on_lost: Callable[[], None]) -> None:
        self._settings, self._on_lost = settings, on_lost
        self._told: set[str] = set()
        self.is_connected = False

    async def note(self, exc: Exception) -> None:
        """Tell of an error, to whom it concerns."""
        reason = str(exc) or type(exc).__name__
        what = self._name(reason)
        key = reason if what == "not_permitted" else what
        if what is None or key in self._told:
            log.debug("fleet.error", reason=reason)
            return
        self._told.add(str(key))
        tell = log.warning if what == "not_permitted" else log.error
        tell(f"fleet.{what}", servers=self._settings.servers, reason=reason, do=DO[what])

    def _name(self, reason: str) -> str | None:
        if NOT_PERMITTED in reason.lower():
            return "not_permitted"
        if REFUSED in reason.lower():  # also while connected: an account that was taken away
            return "refused"
        return None if self.is_connected or "refused" in self._told else "unreachable"

    async def note_lost(self) -> None:
        """A connection ended, by the server or by us."""
        if self.is_connected:  # and not one that was refused
            log.info("fleet.disconnected")
            self._on_lost()
        self.is_connected = False

    async def note_back(self) -> None:
        """There is a connection again."""
        self.is_connected = True
        self._told.clear()
        log.info("fleet.reconnected")


def _tls(settings: FleetSettings) -> ssl.SSLContext | None:
    if not settings.is_tls:
        return None
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as exc:
        raise ConfigurationError(f"fleet.ca_file: {exc}", param="fleet.ca_file") from exc
