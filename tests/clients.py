"""The other side of a test: plain paho, so that a mistake of ours can't cancel itself out."""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.programs import HOST, POLL_S

T = TypeVar("T")

CALLBACKS = (
    "on_connect",
    "on_connect_fail",
    "on_disconnect",
    "on_message",
    "on_publish",
    "on_subscribe",
)


class RawClient:
    """A requester as others would write it: plain paho, and a list of what came in.

    paho's thread appends to the list; tests wait in the event loop.
    """

    def __init__(
        self,
        port: int,
        protocol: Literal["5", "3.1.1"] = "3.1.1",
        client_id: str = "",
        *,
        clean: bool = True,
    ) -> None:
        self.messages: list[paho.MQTTMessage] = []
        self._port = port
        self._is_5 = protocol == "5"
        self._clean = clean
        self._suback = 0
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id or f"test-{os.urandom(4).hex()}",
            clean_session=None if self._is_5 else clean,
            protocol=MQTTProtocolVersion.MQTTv5 if self._is_5 else MQTTProtocolVersion.MQTTv311,
        )
        self.paho.on_message = lambda _client, _data, message: self.messages.append(message)
        self.paho.on_subscribe = self._on_subscribe
        self.paho.on_socket_open = _set_nodelay

    def _on_subscribe(self, *_args: Any) -> None:
        self._suback += 1

    async def __aenter__(self) -> Self:
        options: dict[str, Any] = {}
        if self._is_5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho's
            properties.SessionExpiryInterval = 0 if self._clean else 60
            options = {"clean_start": self._clean, "properties": properties}
        self.paho.connect_async(HOST, self._port, 60, **options)
        self.paho.loop_start()
        await eventually(self.paho.is_connected)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End the connection, or the tries to make one."""
        self.paho.disconnect()
        await asyncio.to_thread(self.paho.loop_stop)
        for name in CALLBACKS:  # that know the client, which would keep itself and its sockets
            setattr(self.paho, name, None)

    async def subscribe(self, *topic_filters: str, qos: int = 1) -> None:
        """Subscribe, and wait until the broker has agreed."""
        before = self._suback
        self.paho.subscribe([(topic_filter, qos) for topic_filter in topic_filters])
        await eventually(lambda: self._suback > before)

    def publish(
        self,
        topic: str,
        payload: str | bytes,
        qos: int = 1,
        *,
        retain: bool = False,
        expiry_s: int | None = None,
    ) -> paho.MQTTMessageInfo:
        """Publish a message; the expiry goes out on MQTT 5 only."""
        properties = None
        if self._is_5 and expiry_s is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call] # paho's
            properties.MessageExpiryInterval = expiry_s
        return self.paho.publish(topic, payload, qos, retain, properties)

    def payloads(self, topic: str) -> list[bytes]:
        """What has come in on a topic."""
        return [bytes(m.payload) for m in tuple(self.messages) if m.topic == topic]

    async def wait_for(self, topic: str, count: int = 1, timeout_s: float = 5.0) -> list[bytes]:
        """Wait for a number of messages on a topic."""
        await eventually(
            lambda: len(self.payloads(topic)) >= count,
            timeout_s,
            lambda: f"{topic}: {[(m.topic, bytes(m.payload)[:80]) for m in self.messages]}",
        )
        return self.payloads(topic)


def _set_nodelay(_client: paho.Client, _data: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def eventually(
    condition: Callable[[], T | None],
    timeout_s: float = 5.0,
    describe: Callable[[], str] = lambda: "",
) -> T:
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"did not happen within {timeout_s} s. {describe()}"[:2000])
        await asyncio.sleep(POLL_S)
    return value
