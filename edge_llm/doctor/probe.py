"""A client that tries a broker once, and hears what ``MqttConnection`` keeps to itself.

That is the reason codes of each subscription and publication, and what the broker announces of
itself. It never connects again, never has a will, and never the client id of a node, whose place
it would take.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_llm.doctor.check import CheckError
from edge_llm.doctor.threads import in_thread
from edge_llm.mqtt.ending import end_client
from edge_llm.mqtt.message import make_properties
from edge_llm.mqtt.tls import make_tls_context
from edge_llm.mqtt.trouble import Trouble
from edge_llm.settings import MqttSettings

__all__ = ["Probe", "ProbeError", "Protocol", "open_probe"]

Protocol = Literal["5", "3.1.1"]

CONNECT_TIMEOUT_S = 3.0  # of TCP, and again of TLS
ANSWER_TIMEOUT_S = 1.5  # of MQTT; also after which MQTT 5 is not spoken there (amqtt)
KEEPALIVE_S = 30


class ProbeError(CheckError):
    """The broker can't be reached, refuses us, or does not answer.

    Attributes:
        is_version: it does not speak this version of MQTT, or nothing answered to it.
    """

    def __init__(self, found: str, cure: str, *, is_version: bool = False) -> None:
        super().__init__(found, cure)
        self.is_version = is_version


class Probe:
    """A connection to a broker.

    Attributes:
        session_present: the broker knew the client.
        announced: what the broker said of itself in MQTT 5's properties.
    """

    def __init__(self, client: paho.Client) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._messages: asyncio.Queue[paho.MQTTMessage] = asyncio.Queue()
        self._answers: dict[tuple[str, int | None], asyncio.Future[list[ReasonCode]]] = {}
        self.accepted: asyncio.Future[ReasonCode] = self._loop.create_future()
        self.session_present = False
        self.announced: dict[str, Any] = {}
        client.on_connect = self._in_loop(self._connected)
        client.on_disconnect = self._in_loop(self._lost)
        client.on_subscribe = self._in_loop(self._subscribed)
        client.on_publish = self._in_loop(self._published)
        client.on_message = self._in_loop(self._messages.put_nowait)

    def _in_loop(self, method: Callable[..., None]) -> Callable[..., None]:
        def call(_client: paho.Client, _userdata: Any, *args: Any) -> None:
            self._loop.call_soon_threadsafe(method, *args)

        return call

    async def subscribe(self, topic_filter: str, qos: int = 1) -> ReasonCode:
        """Subscribe, and return what the broker says to it.

        Raises:
            ProbeError: it says nothing.
        """
        _, packet_id = self._client.subscribe(topic_filter, qos)
        return (await self._answer("subscribe", packet_id))[0]

    async def publish(self, topic: str, payload: bytes, qos: int = 1) -> ReasonCode | None:
        """Publish, and return what the broker says to it, which is nothing at QoS 0.

        Raises:
            ProbeError: it says nothing at QoS 1.
        """
        info = self._client.publish(topic, payload, qos)
        return (await self._answer("publish", info.mid))[0] if qos else None

    def send(self, topic: str, payload: bytes, qos: int = 1) -> None:
        """Publish, and don't wait for what the broker says to it."""
        self._client.publish(topic, payload, qos)

    async def receive(self, timeout_s: float) -> paho.MQTTMessage | None:
        """Return the next message; None if none comes in time."""
        try:
            return await asyncio.wait_for(self._messages.get(), timeout_s)
        except TimeoutError:
            return None

    async def expect(self, payload: bytes, timeout_s: float) -> None:
        """Wait for a message of this payload.

        Raises:
            TimeoutError: it did not come.
        """
        async with asyncio.timeout(timeout_s):
            while (await self._messages.get()).payload != payload:
                pass

    async def _answer(self, kind: str, packet_id: int | None) -> list[ReasonCode]:
        answer = self._answers.setdefault((kind, packet_id), self._loop.create_future())
        try:
            return await asyncio.wait_for(answer, ANSWER_TIMEOUT_S)
        except TimeoutError:
            found = f"the broker let us in, and then did not answer a {kind}"
            raise ProbeError(found, "see the broker's log") from None

    def _settle(self, kind: str, packet_id: int, reasons: list[ReasonCode]) -> None:
        answer = self._answers.setdefault((kind, packet_id), self._loop.create_future())
        if not answer.done():
            answer.set_result(reasons)

    def _connected(
        self, flags: paho.ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self.session_present = flags.session_present
        self.announced = dict(vars(properties)) if properties else {}
        if not self.accepted.done():
            self.accepted.set_result(reason)

    def _lost(self, _flags: Any, _reason: ReasonCode, _properties: Properties | None) -> None:
        if not self.accepted.done():
            self.accepted.set_exception(ConnectionError("closed before it answered"))

    def _subscribed(self, packet_id: int, reasons: list[ReasonCode], _properties: Any) -> None:
        self._settle("subscribe", packet_id, reasons)

    def _published(self, packet_id: int, reason: ReasonCode, _properties: Any) -> None:
        self._settle("publish", packet_id, [reason])


@asynccontextmanager
async def open_probe(
    mqtt: MqttSettings,
    client_id: str,
    protocol: Protocol,
    *,
    session_s: int = 0,
    clean: bool = True,
    window: int | None = None,
) -> AsyncGenerator[Probe]:
    """Connect to a broker until the context is left.

    Args:
        mqtt: where it is, and who we are.
        client_id: of our own.
        protocol: the version to speak.
        session_s: how long the broker is asked to remember us after that, in seconds; 0 for not.
        clean: begin anew.
        window: acknowledge nothing, and tell MQTT 5 brokers that we take so many unacknowledged.

    Raises:
        ProbeError: it does not let us in.
        ConfigurationError: a certificate or the password's file can't be used.
    """
    version = MQTTProtocolVersion.MQTTv5 if protocol == "5" else MQTTProtocolVersion.MQTTv311
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        clean_session=None if protocol == "5" else clean and not session_s,
        protocol=version,
        reconnect_on_failure=False,
        manual_ack=window is not None,
    )
    if mqtt.username is not None:
        client.username_pw_set(mqtt.username, mqtt.read_password())
    client.connect_timeout = CONNECT_TIMEOUT_S
    client.on_socket_open = _set_nodelay
    trouble = Trouble(f"{mqtt.host}:{mqtt.port}", has_tls=mqtt.tls.enabled)
    probe = Probe(client)
    options: dict[str, Any] = {}
    if protocol == "5":
        properties = make_properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = session_s
        if window is not None:
            properties.ReceiveMaximum = window
        options = {"clean_start": clean, "properties": properties}

    def connect() -> None:
        if mqtt.tls.enabled:
            client.tls_set_context(make_tls_context(mqtt.tls))
        client.connect(mqtt.host, mqtt.port, KEEPALIVE_S, **options)
        client.loop_start()

    try:
        await _connect(connect, probe, trouble)
        yield probe
    finally:
        await in_thread(partial(end_client, client))


async def _connect(connect: Callable[[], None], probe: Probe, trouble: Trouble) -> None:
    try:
        await in_thread(connect)
    except OSError as exc:
        trouble.could_not_connect(exc)
        raise _error(trouble) from exc
    await _wait_until_accepted(probe, trouble)


def _set_nodelay(_client: paho.Client, _userdata: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _wait_until_accepted(probe: Probe, trouble: Trouble) -> None:
    is_version = False
    try:
        reason = await asyncio.wait_for(probe.accepted, ANSWER_TIMEOUT_S)
        if not reason.is_failure:
            return
        is_version = str(reason) == "Unsupported protocol version"
        trouble.refused(str(reason))
    except TimeoutError:
        is_version = True
        trouble.unanswered()
    except ConnectionError:
        is_version = True
        trouble.dropped()
    raise _error(trouble, is_version=is_version)


def _error(trouble: Trouble, *, is_version: bool = False) -> ProbeError:
    reason, do = trouble.latest or ("it can't be reached", "see mqtt.host and mqtt.port")
    return ProbeError(reason, do, is_version=is_version)
