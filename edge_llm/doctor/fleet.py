"""The servers of a fleet: whether they let us in, what they keep, and which nodes are there.

Nothing is made at them, and no work is taken. Where there is no fleet nothing is said.
"""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from edge_llm.doctor.case import Case
from edge_llm.doctor.credstore import with_credentials
from edge_llm.doctor.finding import Finding, fail, ok, skip, warn
from edge_llm.doctor.threads import in_thread
from edge_llm.fleet.connection import NOT_PERMITTED, REFUSED, connect_once
from edge_llm.fleet.names import FleetNames
from edge_llm.fleet.setup import compare
from edge_llm.settings import FleetSettings

if TYPE_CHECKING:  # it is there where there is a fleet
    from nats.aio.client import Client

__all__ = ["HANGS", "examine_nodes", "examine_servers", "examine_streams"]

HANGS = "see the servers' log: journalctl -u nats-server -n 20"
ACCOUNT = (
    "set fleet.username and fleet.password_file to an account of 'edge-llm nats-user add --node'"
)
RIGHTS = "give the account the rights of a node: nats/edge-llm-rights.conf"
NO_SERVER = "no server lets us in"
KNOWN = (
    (ssl.SSLError, "the TLS handshake failed", "tls:// or nats:// in fleet.servers? see its log"),
    (ConnectionRefusedError, "connection refused", "there: sudo systemctl start nats-server"),
    (socket.gaierror, "name unknown", "see fleet.servers, and this machine's network and DNS"),
    (TimeoutError, "timed out", "is that machine on, in this network, and not behind a firewall?"),
)
CLIENT = "edge-llm-doctor"
ASK_TIMEOUT_S = 3.0
LISTEN_S = 2.2
"""In which each node that is there says so twice."""


async def examine_servers(case: Case) -> AsyncGenerator[Finding]:
    """Whether each server lets us in, and what it is."""
    if not (fleet := await _find_fleet(case)):
        return
    tries = await asyncio.gather(*(_try(fleet, server) for server in fleet.servers))
    name = "fleet.servers"
    versions = sorted({version for version in tries if isinstance(version, str)})
    for server, found in zip(fleet.servers, tries, strict=True):
        if not isinstance(found, str):
            what, cure = found
            where = server.partition("//")[2]
            yield (warn if versions else fail)(name, f"{where}: {what}", cure)
    if all(isinstance(found, str) for found in tries):
        found = "lets us in" if len(tries) == 1 else f"{len(tries)} let us in"
        yield ok(name, f"{found}: nats-server {', '.join(versions)}")


async def examine_streams(case: Case) -> AsyncGenerator[Finding]:
    """Whether what the fleet keeps is there, and is as this node wants it."""
    if not (fleet := await _find_fleet(case)):
        return
    name = "fleet.streams"
    async with AsyncExitStack() as stack:
        if not (client := await _connect(stack, fleet)):
            yield skip(name, NO_SERVER)
            return
        from nats.errors import Error, NoRespondersError
        from nats.js.errors import ServiceUnavailableError

        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                names = FleetNames(case.settings.mqtt.prefix)
                found = await compare(client, names, fleet)
        except (NoRespondersError, ServiceUnavailableError):
            cure = "put 'jetstream {}' into its file, as nats/edge-llm-1.conf has it"
            yield fail(name, "nats-server runs without JetStream, which keeps the requests", cure)
            return
        except (Error, TimeoutError) as exc:
            what = str(exc) or "it took too long"
            cure = RIGHTS if NOT_PERMITTED in str(client.last_error).lower() else HANGS
            yield fail(name, f"the servers do not say what they keep: {what}", cure)
            return
    if found.wrong:
        cure = "set this node as the others are, or see 'nats stream edit'"
        yield fail(name, "; ".join(found.wrong), cure)
    elif found.missing:
        yield ok(name, "nothing is kept yet: the first node that starts makes it")
    else:
        yield ok(name, "requests, answers and conversations are kept as this node wants them")
    if found.few:
        stream, copies, wanted = found.few[0]
        cure = f"nats stream edit {stream} --replicas {wanted}; so with all streams of the fleet"
        yield warn("fleet.copies", f"{copies} copy is kept where {wanted} could be", cure)


async def examine_nodes(case: Case) -> AsyncGenerator[Finding]:
    """Which nodes are there."""
    if not (fleet := await _find_fleet(case)):
        return
    name, heard = "fleet.nodes", set[str]()
    async with AsyncExitStack() as stack:
        if not (client := await _connect(stack, fleet)):
            yield skip(name, NO_SERVER)
            return

        async def hear(message: Any) -> None:
            heard.add(str(json.loads(message.data)["node"])[:64])

        await client.subscribe(FleetNames(case.settings.mqtt.prefix).peers, cb=hear)
        await asyncio.sleep(LISTEN_S)
    yield ok(name, f"there: {', '.join(sorted(heard))}" if heard else "none runs")


async def _find_fleet(case: Case) -> FleetSettings | None:
    if case.settings_error or not case.settings.fleet.servers:
        return None
    return await in_thread(lambda: with_credentials(case.settings.fleet, case.machine))


async def _try(fleet: FleetSettings, server: str) -> str | tuple[str, str]:
    """Return the version of a server, or why it does not let us in and what to do."""
    from nats.errors import Error

    try:
        async with connect_once(fleet, server, CLIENT) as client:
            version = client.connected_server_version
            return f"{version.major}.{version.minor}.{version.patch}"
    except (Error, OSError, TimeoutError) as exc:
        return _explain(exc)


async def _connect(stack: AsyncExitStack, fleet: FleetSettings) -> "Client | None":
    from nats.errors import Error

    for server in fleet.servers:
        try:
            return await stack.enter_async_context(connect_once(fleet, server, CLIENT))
        except (Error, OSError, TimeoutError):
            continue
    return None


def _explain(exc: Exception) -> tuple[str, str]:
    if isinstance(exc, ssl.SSLCertVerificationError):
        found = exc.verify_message.rstrip(".")
        return found, "set fleet.ca_file to the certificate of the CA that signed the servers'"
    for kind, found, cure in KNOWN:
        if isinstance(exc, kind):
            return found, cure
    reason = str(exc).removeprefix("nats: ").strip("'\"")
    return reason or type(exc).__name__, ACCOUNT if REFUSED in reason.lower() else HANGS
