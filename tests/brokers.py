"""Real brokers on free ports, and a proxy in front of one."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pytest

from edge_llm.broker import open_broker
from edge_llm.settings import MqttSettings
from tests.clients import RawClient
from tests.programs import (
    HOST,
    accepts,
    free_port,
    require_program,
    running,
)

CONFIG = Path(__file__).parent.parent / "mosquitto" / "edge-llm.conf"

CONNECT = b"\x10"
CONNACK_UNSUPPORTED = b"\x20\x02\x00\x01"  # as MQTT 3.1.1 says it, section 3.2.2.3
DISCONNECT_TAKEN_OVER = b"\xe0\x02\x8e\x00"  # MQTT 5, section 3.14; mosquitto 2.0.11 never says it


@dataclass(frozen=True)
class Broker:
    """A broker that runs, and how to speak to it."""

    port: int
    protocol: Literal["5", "3.1.1"]
    """What it and its clients speak in this test; a node finds out that mosquitto has 5."""
    ack: Literal["response", "receipt"] = "response"
    is_mosquitto: bool = True

    def settings(self, **changes: Any) -> MqttSettings:
        """What a node at this broker is set to."""
        protocol = "auto" if self.protocol == "5" else self.protocol
        values = {"host": HOST, "port": self.port, "protocol": protocol, "ack": self.ack}
        return MqttSettings.model_validate({**values, **changes})

    def client(self, **options: Any) -> "RawClient":
        """Make a requester that speaks this broker's protocol."""
        return RawClient(self.port, **{"protocol": self.protocol, **options})


class Mosquitto:
    """mosquitto with the configuration that we ship, on a port of its own.

    Args:
        directory: for its files.
        changes: lines of the configuration that are replaced; None takes one away.
        more: lines that are added.
    """

    def __init__(
        self, directory: Path, changes: Mapping[str, str | None] | None = None, *more: str
    ):
        self.port = free_port()
        self.log = directory / "mosquitto.log"
        self._program = require_program("mosquitto", "mosquitto")
        self._config = directory / "mosquitto.conf"
        lines = {
            key: value
            for key, _, value in (
                line.partition(" ")
                for line in CONFIG.read_text().splitlines()
                if line[:1].isalpha()
            )
        }
        lines |= {"listener": f"{self.port} {HOST}", "persistence_location": f"{directory}/"}
        if os.geteuid() == 0:  # else it becomes user mosquitto, who may not write here
            lines["user"] = "root"
        for key, value in (changes or {}).items():
            lines.pop(key, None)
            if value is not None:
                lines[key] = value
        text = [f"{key} {value}" for key, value in lines.items()]
        self._config.write_text("\n".join([*text, *more, ""]))
        self._running: Any = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [self._program, "-c", str(self._config)]
        self._running = running(command, self.log, lambda: accepts(self.port), None)
        self._process = self._running.__enter__()

    def reload(self) -> None:
        """Have it read its passwords and certificates again."""
        if self._process:
            self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Stop it as systemd would: it writes down what it keeps."""
        if self._running:
            self._running.__exit__(None, None, None)
            self._running = None

    def broker(self, protocol: Literal["5", "3.1.1"] = "5") -> Broker:
        """Say how to speak to it."""
        return Broker(self.port, protocol)


@asynccontextmanager
async def open_amqtt() -> AsyncGenerator[int]:
    """Run the broker that needs nothing installed, and give its port."""
    from amqtt.broker import Broker as Amqtt

    writers: list[asyncio.StreamWriter] = []
    connected = Amqtt.stream_connected

    async def remember(
        broker: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        writers.append(writer)
        with suppress(OSError):  # as when the client has gone while it is refused
            await connected(broker, reader, writer, listener_name)

    # It drops the sockets of clients that vanish without closing them.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Amqtt, "stream_connected", remember)
        async with open_broker(HOST, free_port()) as port:
            yield port
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0)


class Proxy:
    """Stands between a node and its broker, to break the connection where it hurts."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._nodes: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.refuses = False
        self.swallows = False
        """Take what the node sends, and let the broker see none of it."""
        self.only_3_1_1: Literal["refuse", "ignore"] | None = None
        """Act as a broker that does not know MQTT 5: say so as it should, or as amqtt does."""
        self.only_5 = False
        """Act as a broker that knows nothing else."""
        self.num_connections = 0
        self.reads = asyncio.Event()
        self.reads.set()
        self.passes = asyncio.Event()
        """Cleared, the line stands still in both directions."""
        self.passes.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, HOST, 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        for _ in range(5):  # what was accepted just now takes so many steps to get here
            await asyncio.sleep(0)
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break all connections."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def take_over(self) -> None:
        """Say that another client has the node's id, as MQTT 5 brokers should, and break off."""
        for writer in tuple(self._nodes):
            writer.write(DISCONNECT_TAKEN_OVER)
            writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self.num_connections += 1
        try:
            if not self.refuses:
                with suppress(OSError, asyncio.CancelledError):
                    await self._pass_on(reader, writer)
        finally:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection(HOST, self._target)
        self._writers |= {writer, broker_writer}
        self._nodes.add(writer)
        up = asyncio.create_task(self._pump_up(reader, broker_writer, writer))
        down = asyncio.create_task(self._pump(broker_reader, writer))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in (writer, broker_writer):
                end.transport.abort()
            up.cancel()
            down.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            self._writers -= {writer, broker_writer}
            self._nodes.discard(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self.passes.wait()
                writer.write(data)
                await writer.drain()

    async def _pump_up(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self.reads.wait()
                await self.passes.wait()
                is_5, is_3_1 = b"MQTT\x05" in data[:16], b"MQIsdp" in data[:16]
                refused = self.only_3_1_1 if is_5 else self.only_5 or is_3_1
                if data[:1] == CONNECT and refused:
                    if self.only_3_1_1 != "ignore":
                        back.write(CONNACK_UNSUPPORTED)
                        await back.drain()
                elif not self.swallows:
                    writer.write(data)
                    await writer.drain()
