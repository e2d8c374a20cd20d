"""paho-mqtt on asyncio: connect and reconnect, will, publish, acknowledge.

paho runs in its own thread and touches nothing here but ``call_soon_threadsafe``; everything else
happens in the event loop. The rules that hold, with their reasons in brackets:

- A message is acknowledged when its receiver says so, which may be minutes later [1]. After a
  broken connection the broker delivers it again under the same packet id, so an acknowledgement
  of the first copy serves for the second.
- Subscriptions are made anew at every connect [2]: a broker may have lost them.
- A QoS 1 publish waits for the connection, a QoS 0 publish is dropped without one.
- A broker that refuses MQTT 5, or does not answer it, is asked again with 3.1.1 [3]; paho does
  not do that by itself.
- TCP_NODELAY is set [4]: without it each QoS 1 exchange takes 40 ms or more.
- What is more than ``receive_maximum`` is held here [6]: MQTT 3.1.1 can't tell the broker, and
  mosquitto 2.0.11, when told, still sends up to ten times as much in a burst.
- At the end no connection is left [5]: paho's thread may make one while it is being stopped.
"""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as paho
import structlog
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_llm.errors import BrokerError
from edge_llm.settings import MqttSettings

__all__ = ["MqttConnection", "Publication", "Subscription", "Will"]

log = structlog.get_logger()

RECONNECT_DELAY_S = (1, 30)
STOP_TIMEOUT_S = 1.0  # for the last messages to leave
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 1.5  # from TCP's connection to MQTT's; amqtt never answers MQTT 5
RETAINED_ALWAYS, RETAINED_NEVER = 0, 2  # on subscribing; MQTT 5, section 3.8.3.1


@dataclass(frozen=True, slots=True)
class Publication:
    """A message that came in.

    Attributes:
        expiry_s: seconds that it may still wait, if its MQTT 5 sender said so.
        packet_id: what ``ack`` needs.
        session: counts the sessions that the broker began; packet ids begin anew in each.
        connection: counts the connections; after a break a copy may come, without ``dup`` too.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int
    expiry_s: int | None = None
    session: int = 0
    connection: int = 0


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic filter and the highest quality of service for it."""

    topic_filter: str
    qos: int
    retained: bool = False
    """Also what was published before and is retained; MQTT 3.1.1 brokers send that in any case."""


@dataclass(frozen=True, slots=True)
class Will:
    """The retained message that the broker publishes if we vanish."""

    topic: str
    payload: bytes


@dataclass(slots=True)
class _Outgoing:
    """A publish that is not confirmed yet, with what it takes to say it again."""

    arguments: tuple[str, bytes, int, bool]
    expiry_s: int | None
    content_type: str | None
    confirmed: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class MqttConnection:
    """One session at a broker, kept up until the context ends.

    Args:
        settings: where the broker is.
        client_id: must be unique at the broker; a second one with the same id throws us out.
        subscriptions: may not overlap, or MQTT 5 brokers deliver a copy for each.
        will: published by the broker when the connection is lost.
        clean: begin without the requests that came while we were away.
        receive_maximum: unacknowledged messages to have at once; more wait, at the broker or here.
        on_connected: called in the loop at every connect, after subscribing.
    """

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        subscriptions: Sequence[Subscription],
        *,
        will: Will | None = None,
        clean: bool = False,
        receive_maximum: int = 0xFFFF,
        on_connected: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._client_id = client_id
        self._subscriptions = subscriptions
        self._will = will
        self._clean = clean
        self._receive_maximum = receive_maximum
        self._on_connected = on_connected
        self._protocol = 4 if settings.protocol == "3.1.1" else 5
        self._incoming: asyncio.Queue[Publication] = asyncio.Queue()
        self.connection = 0
        """Counts the connections; see ``Publication``."""
        self._session = 0
        self._unacknowledged: set[int] = set()
        self._held: deque[Publication] = deque()
        self._outgoing: dict[int, _Outgoing] = {}
        self._connected = asyncio.Event()
        self._trouble: str | None = None  # what was said last, so that it is said once
        self._answer_due: asyncio.TimerHandle | None = None
        self._downgrade: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._client = self._make_client()
        self._connect()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        waiting = [outgoing.confirmed for outgoing in self._outgoing.values()]
        if waiting and self._connected.is_set():
            await asyncio.wait(waiting, timeout=STOP_TIMEOUT_S)
        for outgoing in self._outgoing.values():
            outgoing.confirmed.cancel()
        self._connected.clear()  # the disconnection to come is no news
        self._stop_waiting_for_answer()
        if self._downgrade:
            await self._downgrade
        await _end_client(self._client)

    async def messages(self) -> AsyncGenerator[Publication]:
        """Yield what comes in, for ever, across reconnects."""
        while True:
            yield await self._incoming.get()

    async def wait_until_connected(self) -> None:
        """Return when the broker has accepted us."""
        await self._connected.wait()

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted us and not gone since."""
        return self._connected.is_set()

    def ack(self, publication: Publication) -> None:
        """Tell the broker that it may forget a message; harmless if it was told before."""
        if publication.qos == 0:
            return
        self._client.ack(publication.packet_id, publication.qos)
        self._unacknowledged.discard(publication.packet_id)
        if self._held and len(self._unacknowledged) < self._receive_maximum:
            self._pass_on(self._held.popleft())

    def publish(
        self,
        topic: str,
        payload: str | bytes,
        qos: int = 0,
        *,
        retain: bool = False,
        content_type: str | None = None,
        expiry_s: int | None = None,
    ) -> asyncio.Future[None]:
        """Send a message; the future is done when the broker has it (QoS 0: when it was sent).

        Raises (through the future):
            BrokerError: a QoS 0 message was dropped, as there is no connection.
        """
        payload = payload.encode() if isinstance(payload, str) else payload
        outgoing = _Outgoing((topic, payload, qos, retain), expiry_s, content_type)
        self._send(outgoing)
        return outgoing.confirmed

    def _send(self, outgoing: _Outgoing) -> None:
        properties = None
        if self._protocol == paho.MQTTv5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call] # paho's
            if outgoing.expiry_s is not None:
                properties.MessageExpiryInterval = outgoing.expiry_s
            if outgoing.content_type:
                properties.ContentType = outgoing.content_type
                properties.PayloadFormatIndicator = 1
        topic, payload, qos, retain = outgoing.arguments
        info = self._client.publish(topic, payload, qos, retain, properties)
        if qos == 0 and info.rc != paho.MQTT_ERR_SUCCESS:
            _fail(outgoing.confirmed)
        else:  # paho keeps QoS 1 and 2 for the next connection, whatever it returned
            self._outgoing[info.mid] = outgoing

    def _make_client(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if self._protocol == paho.MQTTv5 else self._clean,
            protocol=MQTTProtocolVersion(self._protocol),
            manual_ack=True,  # [1]
        )
        if self._settings.username is not None:
            password = self._settings.password
            client.username_pw_set(
                self._settings.username, password.get_secret_value() if password else None
            )
        if self._will:
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=True)
        client.reconnect_delay_set(*RECONNECT_DELAY_S)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.on_socket_open = self._make_socket_callback(client)
        client.on_connect = self._from_thread(client, self._accepted)
        client.on_connect_fail = self._from_thread(client, self._unreachable)
        client.on_disconnect = self._from_thread(client, self._lost)
        client.on_message = self._from_thread(client, self._received)
        client.on_publish = self._from_thread(client, self._confirmed)
        return client

    def _from_thread(self, client: paho.Client, method: Callable[..., None]) -> Callable[..., None]:
        """Make a paho callback that calls a method in the event loop."""

        def forward(_client: paho.Client, _userdata: Any, *args: Any) -> None:
            def call() -> None:
                if client is self._client:  # not one that was replaced meanwhile
                    method(*args)

            self._loop.call_soon_threadsafe(call)

        return forward

    def _make_socket_callback(self, client: paho.Client) -> Callable[..., None]:
        opened = self._from_thread(client, self._opened)

        def forward(_client: paho.Client, _userdata: Any, sock: Any) -> None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # [4]
            opened(_client, _userdata)

        return forward

    def _connect(self) -> None:
        options: dict[str, Any] = {}
        if self._protocol == paho.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho's
            properties.SessionExpiryInterval = 0 if self._clean else self._settings.session_expiry_s
            properties.ReceiveMaximum = self._receive_maximum
            options = {"clean_start": self._clean, "properties": properties}
        self._client.connect_async(
            self._settings.host, self._settings.port, self._settings.keepalive_s, **options
        )
        self._client.loop_start()

    def _opened(self) -> None:
        self._stop_waiting_for_answer()
        self._answer_due = self._loop.call_later(ANSWER_TIMEOUT_S, self._unanswered)

    def _stop_waiting_for_answer(self) -> None:
        if self._answer_due:
            self._answer_due.cancel()
            self._answer_due = None

    def _unanswered(self) -> None:
        if self._may_downgrade:
            self._go_back_to_3_1_1()
        else:
            self._complain("mqtt.unanswered", do="is that an MQTT broker? trying again")

    def _accepted(
        self, flags: paho.ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._stop_waiting_for_answer()
        if reason.is_failure:
            self._refused(reason)
            return
        for subscription in self._subscriptions:  # [2]
            if self._protocol == paho.MQTTv5:
                options = SubscribeOptions(
                    subscription.qos,
                    retainAsPublished=True,
                    retainHandling=RETAINED_ALWAYS if subscription.retained else RETAINED_NEVER,
                )
                self._client.subscribe(subscription.topic_filter, options=options)
            else:
                self._client.subscribe(subscription.topic_filter, subscription.qos)
        self.connection += 1
        self._session += not flags.session_present
        self._trouble = None
        self._connected.set()
        log.info(
            "mqtt.connected",
            broker=self._broker,
            protocol="5" if self._protocol == paho.MQTTv5 else "3.1.1",
            session_present=flags.session_present,
        )
        self._on_connected()

    def _refused(self, reason: ReasonCode) -> None:
        if str(reason) == "Unsupported protocol version" and self._may_downgrade:
            self._go_back_to_3_1_1()
        else:
            self._complain("mqtt.refused", reason=str(reason), do=_cure(str(reason)))

    @property
    def _may_downgrade(self) -> bool:
        return self._settings.protocol == "auto" and self._protocol == paho.MQTTv5

    def _go_back_to_3_1_1(self) -> None:  # [3]
        log.info("mqtt.downgraded", broker=self._broker, protocol="3.1.1")
        self._protocol = paho.MQTTv311
        old, self._client = self._client, self._make_client()
        unconfirmed, self._outgoing = self._outgoing, {}
        for outgoing in unconfirmed.values():
            self._send(outgoing)  # now, as what is published from here on comes after
        self._downgrade = self._loop.create_task(self._replace(old), name="mqtt.downgrade")

    async def _replace(self, old: paho.Client) -> None:
        await _end_client(old)
        self._connect()

    def _unreachable(self) -> None:
        self._complain("mqtt.unreachable", do="is the broker running there? trying again")

    def _lost(
        self, _flags: paho.DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._stop_waiting_for_answer()
        self._drop_qos_0()
        if self._connected.is_set():
            self._connected.clear()
            log.warning("mqtt.disconnected", broker=self._broker, reason=str(reason))

    def _drop_qos_0(self) -> None:
        # paho forgets what it had not sent yet, and says so to nobody.
        for packet_id, outgoing in list(self._outgoing.items()):
            if outgoing.arguments[2] == 0:
                del self._outgoing[packet_id]
                _fail(outgoing.confirmed)

    def _complain(self, event: str, **details: str) -> None:
        if self._trouble != event:
            self._trouble = event
            log.warning(event, broker=self._broker, **details)

    def _received(self, message: paho.MQTTMessage) -> None:
        expiry_s = getattr(message.properties, "MessageExpiryInterval", None)
        publication = Publication(
            topic=message.topic,
            payload=bytes(message.payload),
            qos=message.qos,
            retain=message.retain,
            dup=message.dup,
            packet_id=message.mid,
            expiry_s=expiry_s,
            session=self._session,
            connection=self.connection,
        )
        is_new = publication.qos > 0 and publication.packet_id not in self._unacknowledged
        if is_new and len(self._unacknowledged) >= self._receive_maximum:
            self._hold(publication)
        else:
            self._pass_on(publication)

    def _hold(self, publication: Publication) -> None:  # [6]
        for held in self._held:
            if held.packet_id == publication.packet_id and held.session == publication.session:
                return  # a copy
        self._held.append(publication)

    def _pass_on(self, publication: Publication) -> None:
        if publication.qos > 0:
            self._unacknowledged.add(publication.packet_id)
        self._incoming.put_nowait(publication)

    def _confirmed(
        self, packet_id: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        outgoing = self._outgoing.pop(packet_id, None)
        if outgoing is None or outgoing.confirmed.done():
            return
        if reason.is_failure:  # MQTT 5 brokers say so; 3.1.1 brokers drop in silence
            log.warning("mqtt.publish_refused", topic=outgoing.arguments[0], reason=str(reason))
        outgoing.confirmed.set_result(None)

    @property
    def _broker(self) -> str:
        return f"{self._settings.host}:{self._settings.port}"


async def _end_client(client: paho.Client) -> None:
    client.disconnect()
    await asyncio.to_thread(client.loop_stop)
    if client.socket() is not None:  # [5]
        client.disconnect()


def _fail(confirmed: asyncio.Future[None]) -> None:
    if not confirmed.done():
        confirmed.set_exception(BrokerError("not connected to the MQTT broker"))
        confirmed.exception()  # whoever sends QoS 0 need not look


def _cure(reason: str) -> str:
    if reason in ("Not authorized", "Bad user name or password"):
        return "set mqtt.username and mqtt.password to an account of the broker; trying again"
    return "see the broker's log; trying again"
