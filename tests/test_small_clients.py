"""Microcontrollers: a 256-byte buffer, and MicroPython's own client."""

import asyncio
import binascii
import importlib
import json
import socket
import struct
import sys
import types
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from edge_llm.preset import Preset, Presets
from edge_llm.service import Rules
from edge_llm.settings import ClientSettings
from tests.brokers import Broker, Mosquitto
from tests.clients import eventually
from tests.programs import HOST
from tests.small_client import SmallClient
from tests.stage import STATUS, Stage, open_stage

LONG_ID = "esp32-a1b2c3/1234567"  # 20 characters
LONG = "say " + "Ich erzähle eine Geschichte, die länger ist als jeder Puffer. 🎭 " * 12
RULES = Rules(
    Presets({"": Preset(fallback="Das Orakel schläft. " * 20)}, ""),
    clients=[ClientSettings(match="esp*", max_bytes=200)],
)


@asynccontextmanager
async def small(broker: Broker) -> AsyncGenerator[tuple[Stage, SmallClient]]:
    async with open_stage(broker, rules=RULES) as stage, SmallClient(broker.port) as client:
        await client.subscribe(f"llm/response/{LONG_ID}/#")
        yield stage, client


def texts(client: SmallClient, level: str = "") -> list[str]:
    topic = f"llm/response/{LONG_ID}{level}"
    return [payload.decode() for name, payload in client.messages if name == topic]


@pytest.mark.parametrize("qos", [0, 1])
async def test_whole_packets_fit_into_256_bytes(broker: Broker, qos: int) -> None:
    assert len(LONG_ID) == 20
    async with small(broker) as (stage, client):
        client.publish(f"llm/request/{LONG_ID}", LONG[:190].encode(), qos)
        await eventually(lambda: texts(client))
        # The biggest that may be: more than one character could not be added.
        assert 100 <= len(texts(client)[0].encode()) <= 200
        stage.ask({"prompt": LONG, "stream": "sentence", "format": "text"}, LONG_ID)
        await eventually(lambda: len(texts(client)) >= 2)
        await eventually(lambda: "".join(texts(client, "/delta")) == texts(client)[1])
        stage.ask(
            {"prompt": LONG, "parts": True, "stream": "word", "format": "text", "events": True},
            LONG_ID,
        )
        await eventually(lambda: len(texts(client)) >= 3)
        parts = [payload for name, payload in client.messages if "/part/" in name]
        assert b"".join(parts).decode() == LONG.removeprefix("say ")
        assert [json.loads(event)["event"] for event in texts(client, "/event")] == [
            "started",
            "first_token",
            "done",
        ]
        stage.ask("fail " + "x" * 500, LONG_ID)
        await eventually(lambda: len(texts(client, "/error")) >= 1)
        await eventually(lambda: len(texts(client)) >= 4)
        assert texts(client, "/error")[0].startswith("internal: ")
        assert texts(client)[3].startswith("Das Orakel schläft.")
        stage.ask('{"prompt": "x", "format": "text", "' + "nope" * 200 + '": 1}', LONG_ID)
        stage.ask(b"\xff" * 10, LONG_ID)
        stage.ask('{"format": "text", "prompt": ["broken"', LONG_ID)
        await eventually(lambda: len(texts(client, "/error")) >= 4)
        assert client.num_discarded == 0
        assert client.largest <= 256


async def test_the_client_of_this_test_loses_what_does_not_fit(mosquitto: Mosquitto) -> None:
    """So that the test above can fail."""
    async with small(mosquitto.broker("3.1.1")) as (stage, client):
        stage.client.publish(f"llm/response/{LONG_ID}", b"x" * 216, 1)
        await eventually(lambda: client.messages)
        assert (client.largest, client.num_discarded) == (256, 0)
        stage.client.publish(f"llm/response/{LONG_ID}", b"x" * 217, 1)
        await eventually(lambda: client.num_discarded)
        assert len(client.messages) == 1


@pytest.fixture
def umqtt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """MicroPython's client, with CPython's modules under MicroPython's names."""

    class Socket(socket.socket):
        """MicroPython's sockets read and write like files."""

        def read(self, size: int) -> bytes | None:
            data = b""
            while len(data) < size:
                try:
                    more = self.recv(size - len(data))
                except BlockingIOError:
                    return data or None
                if not more:
                    return data
                data += more
            return data

        def write(self, data: bytes, size: int | None = None) -> None:
            self.sendall(data if size is None else data[:size])

    usocket = types.ModuleType("usocket")
    usocket.__dict__.update(socket=Socket, getaddrinfo=_ipv4)
    aliases = {"usocket": usocket, "ustruct": struct, "ubinascii": binascii}
    for name, module in aliases.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield importlib.import_module("umqtt.simple")
    for name in ("umqtt.simple", "umqtt"):
        sys.modules.pop(name, None)


def _ipv4(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)


async def test_micropython_asks_and_is_answered(mosquitto: Mosquitto, umqtt: Any) -> None:
    broker = mosquitto.broker("3.1.1")
    heard: list[tuple[bytes, bytes]] = []

    def button() -> None:
        """As it would stand in main.py."""
        client = umqtt.MQTTClient(b"esp1", HOST, broker.port)
        client.set_callback(lambda topic, message: heard.append((topic, message)))
        client.connect()
        client.subscribe(b"llm/response/esp1", 1)
        client.publish(b"llm/request/esp1", b"say Guten Abend!", qos=1)
        while not heard:
            client.wait_msg()
        client.publish(b"llm/request/esp1", LONG.encode())
        while len(heard) < 2:
            client.wait_msg()
        client.disconnect()
        client.sock.close()

    async with open_stage(broker, rules=RULES) as stage:
        await stage.client.wait_for(STATUS)
        await asyncio.wait_for(asyncio.to_thread(button), 10)
    assert heard[0] == (b"llm/response/esp1", b"Guten Abend!")
    assert heard[1][0] == b"llm/response/esp1"
    assert 100 <= len(heard[1][1]) <= 200
