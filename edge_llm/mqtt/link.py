"""The link to a broker: made, kept up and made again, in the MQTT version that the broker speaks.

paho runs in its own thread and touches nothing here but ``call_soon_threadsafe``; everything else
happens in the event loop. The rules that hold, with their reasons in brackets:

- A broker that refuses MQTT 5, or does not answer it, is asked again with 3.1.1 [1]; paho does
  not do that by itself.
- TCP_NODELAY is set [2]: without it each QoS 1 exchange takes 40 ms or more.
- The delay before a try is drawn one event ahead [3], as paho begins to wait before the loop hears
  of a loss.
- What the loop has not got round to stays at the broker [4]: paho's thread waits, and TCP with it.
- Nothing keeps a client that has ended [5], for the sake of its sockets.
"""

import asyncio
import socket
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
import structlog
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_llm.errors import ConfigurationError
from edge_llm.mqtt.backoff import Backoff
from edge_llm.mqtt.ending import end_client
from edge_llm.mqtt.message import Will, make_properties
from edge_llm.mqtt.throttle import throttle
from edge_llm.mqtt.tls import load_again, make_tls_context
from edge_llm.mqtt.trouble import Trouble
from edge_llm.settings import MqttSettings

__all__ = ["Link", "Listener"]

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 5.0  # of TCP, and again of TLS
ANSWER_TIMEOUT_S = 1.5  # from TCP's connection to MQTT's; amqtt never answers MQTT 5
MAX_PACKET_BYTES = 2**24  # no request is as large, nor an answer with all that can be told of it
MAX_IN_FLIGHT = 10  # brokers take as many at least (HiveMQ); paho's own 20 may be too many
# paho's words for how a connection ended
CLOSED, TAKEN_OVER = "Unspecified error", "Session taken over"


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told what happens; all in the event loop.

    Attributes:
        accepted: there is a connection.
        lost: there is none any more.
        replaced: what was given to the client and not confirmed is to be said again.
        received: a message came in.
        confirmed: the broker has, or refuses, what was published under a packet id.
        subscribed: the broker's answers to a subscription.
    """

    accepted: Callable[[], None]
    lost: Callable[[], None]
    replaced: Callable[[], None]
    received: Callable[[paho.MQTTMessage], None]
    confirmed: Callable[[int, ReasonCode, Properties | None], None]
    subscribed: Callable[[int, list[ReasonCode], Properties | None], None]


class Link:
    """Keeps one client connected.

    Args:
        settings: where the broker is.
        client_id: must be unique at the broker.
        listener: is told what happens.
        delays_s: the shortest and the longest between two tries, before jitter.
        will: published by the broker when the connection is lost.
        clean: begin each session anew.
        receive_maximum: unacknowledged messages that the broker may send.
    """

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        listener: Listener,
        *,
        delays_s: tuple[float, float],
        will: Will | None,
        clean: bool,
        receive_maximum: int,
    ) -> None:
        self._settings = settings
        self._client_id = client_id
        self._listener = listener
        self._will = will
        self._clean = clean
        self._receive_maximum = receive_maximum
        self._servers = settings.servers
        self._server = 0  # which of them
        self._broker = f"{settings.host}:{settings.port}"
        self._tls: ssl.SSLContext | None = None
        self._password: str | None = None
        self._backoff = Backoff(delays_s)
        self._first_protocol = paho.MQTTv311 if settings.protocol == "3.1.1" else paho.MQTTv5
        self._protocol = self._first_protocol
        self._has_spoken_5 = False
        self.trouble = Trouble(self._broker, has_tls=settings.tls.enabled)
        self.connected = asyncio.Event()
        self.since = time.monotonic()
        """When it was connected last, or lost."""
        self.heard_at = time.monotonic()
        """When paho's thread called last, for whatever reason; it does at each try."""
        self.connection = 0
        """Counts the connections."""
        self.session = 0
        """Counts the sessions that the broker began."""
        self.session_present = False
        """Whether the broker knew us when we connected last."""
        self.server_receive_maximum: int | None = None
        """How many messages the broker takes unacknowledged; only MQTT 5 brokers say so."""
        self.has_identifiers = True
        """Whether subscriptions may have identifiers."""
        self.max_packet_bytes: int | None = None
        """The largest packet that the broker takes, if it said so."""
        self._is_closing = False
        self._socket: object = None  # of the connection that the broker accepted
        self._awaits_answer = False
        self._answer_due: asyncio.TimerHandle | None = None
        self._change: asyncio.Task[None] | None = None
        self._next_connect: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Begin to connect.

        Raises:
            ConfigurationError: the host can't be one, or a certificate or the password's file
                can't be used.
        """
        for host, _ in self._servers:
            _check_host(host)
        self._password = self._settings.read_password()
        if self._settings.tls.enabled:
            self._tls = await asyncio.to_thread(make_tls_context, self._settings.tls)
        self._loop = asyncio.get_running_loop()
        self.client = self._make_client()
        self._connect()

    async def aclose(self) -> None:
        """End the connection, or the tries to make one."""
        self._is_closing = True
        self.connected.clear()
        self._stop_waiting_for_answer()
        if self._next_connect:
            self._next_connect.cancel()
        client, self._socket = self.client, None
        del self.client  # [5]
        if self._change:
            await self._change
        await asyncio.to_thread(end_client, client)

    @property
    def is_5(self) -> bool:
        """Whether MQTT 5 is spoken, or tried."""
        return self._protocol == paho.MQTTv5

    @property
    def can_send(self) -> bool:
        """Whether what is sent now goes to the connection that we know of.

        paho may have lost it and begun another that the loop has not heard of; and while it makes
        one, it would send other things before the CONNECT.
        """
        return self._socket is not None and self._socket is self.client.socket()

    def _make_client(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if self.is_5 else self._clean,
            protocol=self._protocol,
            manual_ack=True,
        )
        if self._settings.username is not None:
            client.username_pw_set(self._settings.username, self._password)
        if self._will:
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=True)
        if self._tls:
            client.tls_set_context(self._tls)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(MAX_IN_FLIGHT)
        client.on_socket_open = self._make_socket_callback(client)
        client.on_connect = self._from_thread(client, self._accepted, client.socket)
        # paho calls this from its except block.
        client.on_connect_fail = self._from_thread(client, self._unreachable, sys.exception)
        client.on_disconnect = self._from_thread(client, self._lost)
        received = self._from_thread(client, self._listener.received)
        client.on_message = throttle(received, self._loop)  # [4]
        client.on_publish = self._from_thread(client, self._listener.confirmed)
        client.on_subscribe = self._from_thread(client, self._listener.subscribed)
        return client

    def _from_thread(
        self,
        client: paho.Client,
        method: Callable[..., None],
        *getters: Callable[[], object],
    ) -> Callable[..., None]:
        """Make a paho callback that calls a method in the event loop.

        What the getters return, in paho's thread, are further arguments of the method.
        """

        def forward(_client: paho.Client, _userdata: Any, *args: Any) -> None:
            arguments = (*args, *(get() for get in getters))

            def call() -> None:
                # Not of one that was replaced meanwhile, nor at the end, where nothing is news.
                if not self._is_closing and client is self.client:
                    self.heard_at = time.monotonic()
                    method(*arguments)

            self._loop.call_soon_threadsafe(call)

        return forward

    def _make_socket_callback(self, client: paho.Client) -> Callable[..., None]:
        opened = self._from_thread(client, self._opened)

        def forward(_client: paho.Client, _userdata: Any, sock: Any) -> None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # [2]
            opened(_client, _userdata)

        return forward

    def _connect(self) -> None:
        options: dict[str, Any] = {}
        if self.is_5:
            properties = make_properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if self._clean else self._settings.session_expiry_s
            properties.ReceiveMaximum = self._receive_maximum
            properties.MaximumPacketSize = MAX_PACKET_BYTES
            options = {"clean_start": self._clean, "properties": properties}
        self._draw_delay()
        self.client.connect_async(
            *self._servers[self._server], self._settings.keepalive_s, **options
        )
        self.client.loop_start()

    def _draw_delay(self) -> None:  # [3]
        delay_s: Any = self._backoff.draw_delay_s()  # paho wants an int, and takes a float
        self.client.reconnect_delay_set(delay_s, delay_s)

    def _opened(self) -> None:
        self._stop_waiting_for_answer()
        self._awaits_answer = True
        self._answer_due = self._loop.call_later(ANSWER_TIMEOUT_S, self._unanswered)

    def _stop_waiting_for_answer(self) -> None:
        self._awaits_answer = False
        if self._answer_due:
            self._answer_due.cancel()
            self._answer_due = None

    def _unanswered(self) -> None:
        self._answer_due = None
        # One that spoke MQTT 5 before is just busy.
        if self._may_downgrade and not self._has_spoken_5:
            self._go_back_to_3_1_1()
        else:
            self.trouble.unanswered()

    def _accepted(
        self,
        flags: paho.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
        sock: object,
    ) -> None:
        self._stop_waiting_for_answer()
        if reason.is_failure:
            self._refused(str(reason))
            return
        away_s = time.monotonic() - self.since
        had_session = self.connection > 0 and not self._clean
        self.since = time.monotonic()
        self._socket = sock
        self._read_limits(properties)
        self.connection += 1
        self.session += not flags.session_present
        self.session_present = flags.session_present
        self._backoff.accepted()
        self._draw_delay()
        self.connected.set()
        log.info(
            "mqtt.connected",
            broker=self._broker,
            protocol="5" if self.is_5 else "3.1.1",
            session_present=flags.session_present,
        )
        if had_session and not flags.session_present:
            self.trouble.session_lost(away_s, self._settings.session_expiry_s, told=self.is_5)
        self._listener.accepted()

    def _read_limits(self, properties: Properties | None) -> None:
        self._has_spoken_5 = self._has_spoken_5 or self.is_5
        self.has_identifiers = bool(getattr(properties, "SubscriptionIdentifierAvailable", True))
        self.max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
        receive_maximum = int(getattr(properties, "ReceiveMaximum", 0xFFFF))
        self.server_receive_maximum = receive_maximum if self.is_5 else None

    def _refused(self, reason: str) -> None:
        is_version = reason == "Unsupported protocol version"
        if is_version and self._may_downgrade:
            self._go_back_to_3_1_1()
            return
        self.trouble.refused(reason)
        if is_version and not self.is_5:  # paho went down to 3.1 by itself, and would stay there
            self._backoff.failed()
            self._change_client(self._first_protocol, self._backoff.draw_delay_s())

    @property
    def _may_downgrade(self) -> bool:
        return self._settings.protocol == "auto" and self.is_5

    def _go_back_to_3_1_1(self) -> None:  # [1]
        self.trouble.downgraded()
        self._change_client(paho.MQTTv311, 0.0)

    def _change_client(self, protocol: MQTTProtocolVersion, delay_s: float) -> None:
        self._stop_waiting_for_answer()
        self._protocol = protocol
        old, self.client = self.client, self._make_client()
        self._listener.replaced()
        self._change = self._loop.create_task(self._replace(old, delay_s), name="mqtt.change")

    async def _replace(self, old: paho.Client, delay_s: float) -> None:
        await asyncio.to_thread(end_client, old)
        if not self._is_closing:
            self._next_connect = self._loop.call_later(delay_s, self._connect)

    def _unreachable(self, exc: BaseException | None) -> None:
        self.trouble.could_not_connect(exc)
        self._try_failed()
        self._turn_to_next_server()

    def _try_failed(self) -> None:
        self._backoff.failed()
        self._draw_delay()
        if self._tls:
            load_again(self._tls, self._settings.tls)
        if self._settings.username is not None:
            with suppress(ConfigurationError):  # half written; the one before may still do
                self._password = self._settings.read_password()
                self.client.username_pw_set(self._settings.username, self._password)

    def _turn_to_next_server(self) -> bool:
        """Try another server of the cluster next, if there is one; paho itself has only one."""
        if len(self._servers) == 1:
            return False
        self._server = (self._server + 1) % len(self._servers)
        host, port = self._servers[self._server]
        self._broker = f"{host}:{port}"
        self._change_client(self._first_protocol, self._backoff.draw_delay_s())
        return True

    def _lost(
        self, _flags: paho.DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._socket = None
        if self.connected.is_set():
            self.connected.clear()
            self.since = time.monotonic()
            self._disconnected(str(reason))
            self._listener.lost()
        else:
            self._not_accepted()

    def _disconnected(self, reason: str) -> None:
        log.warning("mqtt.disconnected", broker=self._broker, reason=reason)
        self.trouble.end()
        if self._backoff.lost(unexplained=reason == CLOSED, taken_over=reason == TAKEN_OVER):
            self.trouble.taken_over(self._client_id, is_sure=reason == TAKEN_OVER)
        self._draw_delay()

    def _not_accepted(self) -> None:
        awaited, said_nothing = self._awaits_answer, self._answer_due is not None
        self._stop_waiting_for_answer()
        self._try_failed()
        if awaited and said_nothing:
            self.trouble.dropped()
        if self._turn_to_next_server():
            return
        if awaited and self._protocol != self._first_protocol:  # it may be another broker now
            self._change_client(self._first_protocol, self._backoff.draw_delay_s())


def _check_host(host: str) -> None:
    try:
        usable = bool(host.encode("idna"))
    except UnicodeError:
        usable = False
    if not usable:  # it would end paho's thread, in silence
        raise ConfigurationError(f"mqtt.host: {host!r} can't be the name of a host")
