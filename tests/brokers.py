"""Real brokers on free ports, and what tests put around them.

Nothing here uses ``edge_llm.mqtt``: the other side of each test is plain paho, so that a mistake
of ours can't cancel itself out.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, TypeVar

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_llm.broker import open_broker
from edge_llm.engine.interface import EngineState
from edge_llm.errors import EdgeLLMError
from edge_llm.protocol import ChatRequest, Delta, Done, Event, ModelInfo, Started, Usage
from edge_llm.settings import MqttSettings

HOST = "127.0.0.1"
CONFIG = Path(__file__).parent.parent / "mosquitto" / "edge-llm.conf"
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0
POLL_S = 0.01

CONNECT = b"\x10"
CONNACK_UNSUPPORTED = b"\x20\x02\x00\x01"  # as MQTT 3.1.1 says it, section 3.2.2.3

T = TypeVar("T")


# Programs ----------------------------------------------------------------------------------------


def require_program(name: str, package: str) -> str:
    """Return the path of a program, and install Debian's package for it if that is allowed.

    Without it the test is skipped; with CI=true it fails, so that CI can't be green by accident.
    """
    path = _find(name)
    if path is None and _install(package):
        path = _find(name)
    return path or _do_without(f"{name} is not installed (Debian: apt-get install {package})")


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _install(package: str) -> bool:
    apt = shutil.which("apt-get")
    if apt is None:
        return False
    become_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    command = [*become_root, apt, "install", "-y", "--no-install-recommends", package]
    with suppress(OSError, subprocess.SubprocessError):  # no sudo, no network
        return subprocess.run(command, capture_output=True, check=False, timeout=90).returncode == 0
    return False


def _do_without(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def running(
    command: Sequence[str], log: Path, is_ready: Callable[[], bool], env: dict[str, str] | None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the context is left; its output goes to a file."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} did not start: {log.read_text()[-2000:]}")
            time.sleep(POLL_S)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def accepts(port: int) -> bool:
    """Tell whether somebody listens on a port."""
    try:
        socket.create_connection((HOST, port), timeout=0.5).close()
    except OSError:
        return False
    return True


# Brokers -----------------------------------------------------------------------------------------


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
        self._running.__enter__()

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
        self._tasks: set[asyncio.Task[None]] = set()
        self.refuses = False
        self.swallows = False
        """Take what the node sends, and let the broker see none of it."""
        self.only_3_1_1: Literal["refuse", "ignore"] | None = None
        """Act as a broker that does not know MQTT 5: say so as it should, or as amqtt does."""
        self.num_connections = 0
        self.reads = asyncio.Event()
        self.reads.set()

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
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break all connections."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self.num_connections += 1
        if self.refuses:
            writer.transport.abort()
            return
        with suppress(OSError, asyncio.CancelledError):
            broker_reader, broker_writer = await asyncio.open_connection(HOST, self._target)
            self._writers |= {writer, broker_writer}
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

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
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
                if self.only_3_1_1 and data[:1] == CONNECT and b"MQTT\x05" in data[:16]:
                    if self.only_3_1_1 == "refuse":
                        back.write(CONNACK_UNSUPPORTED)
                        await back.drain()
                elif not self.swallows:
                    writer.write(data)
                    await writer.drain()


# Clients -----------------------------------------------------------------------------------------


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
        self.paho.disconnect()
        await asyncio.to_thread(self.paho.loop_stop)

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


# An engine ---------------------------------------------------------------------------------------


@dataclass
class PromptedEngine:
    """Does what the prompt says: ``hold`` waits for ``release``, ``fail`` fails, others are echoed.

    ``say`` in the prompt is dropped and the rest said word by word; after the first word ``hold``
    waits, so that there is partial text.
    """

    step_s: float = 0.0
    asked: list[str] = field(default_factory=list)
    num_running: int = 0
    error: Exception | None = None
    release: asyncio.Event = field(default_factory=asyncio.Event)
    state: EngineState = "ready"
    models: tuple[ModelInfo, ...] = (ModelInfo(id="tiny", context_len=512, vocab_size=1000),)

    async def ready(self) -> tuple[ModelInfo, ...]:
        """Return at once."""
        return self.models

    async def generate(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Say the last turn."""
        prompt = request.conversation[-1].content
        self.asked.append(prompt)
        self.num_running += 1
        try:
            yield Started()
            if self.error:
                raise self.error
            if prompt.startswith("fail"):
                raise EdgeLLMError("it was told to fail")
            words = prompt.removeprefix("say ").split(" ")
            for number, word in enumerate(words):
                await asyncio.sleep(self.step_s)
                yield Delta(text=f" {word}" if number else word)
                if number == 0 and prompt.startswith("hold"):
                    await self.release.wait()
            yield Done(
                finish_reason="stop",
                usage=Usage(prompt_tokens=len(words), completion_tokens=len(words)),
            )
        finally:
            self.num_running -= 1
