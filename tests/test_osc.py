"""Open Sound Control: python-osc and liblo's own tools at the other end."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pythonosc.dispatcher import Dispatcher
from pythonosc.osc_message_builder import OscMessageBuilder
from pythonosc.osc_server import AsyncIOOSCUDPServer
from structlog.contextvars import get_contextvars

from bridges.osc import MAX_TEXT_BYTES, OscSettings, open_osc
from edge_llm.engine.queue import QueuedEngine
from edge_llm.errors import ConfigurationError
from edge_llm.plugin import BridgeContext
from edge_llm.preset import Preset, Presets
from edge_llm.settings import QueueSettings
from tests.clients import eventually
from tests.programs import HOST, free_port, require_program
from tests.prompted_engine import PromptedEngine

Message = tuple[str, tuple[Any, ...]]


@dataclass
class Software:
    """Sound software: sends to the bridge, and hears what comes back."""

    sock: socket.socket
    port: int
    heard: list[Message]

    def send(self, address: str, *arguments: Any) -> None:
        builder = OscMessageBuilder(address)
        for argument in arguments:
            builder.add_arg(argument)
        self.send_bytes(builder.build().dgram)

    def send_bytes(self, datagram: bytes) -> None:
        self.sock.sendto(datagram, (HOST, self.port))

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for address, arguments in self.heard if address == f"/llm/{name}"]

    async def end_of(self, request_id: object) -> Message:
        """Wait for the one message that ends a request."""
        ends = ("/llm/response", "/llm/error")

        def found() -> list[Message]:
            return [m for m in self.heard if m[0] in ends and m[1][0] == request_id]

        await eventually(lambda: bool(found()))
        [end] = found()
        return end


@asynccontextmanager
async def software_beside(
    engine: PromptedEngine | QueuedEngine, presets: Presets | None = None, **settings: Any
) -> AsyncIterator[Software]:
    """Open the bridge, and software that talks to it."""
    dispatcher = Dispatcher()
    heard: list[Message] = []
    dispatcher.set_default_handler(lambda address, *arguments: heard.append((address, arguments)))
    loop = asyncio.get_running_loop()
    assert isinstance(loop, asyncio.BaseEventLoop)
    ears, _ = await AsyncIOOSCUDPServer((HOST, 0), dispatcher, loop).create_serve_endpoint()
    port = ears.get_extra_info("sockname")[1]
    if isinstance(engine, PromptedEngine):
        engine = QueuedEngine(engine, QueueSettings(limit=4))
    context = BridgeContext("stage", engine, presets=lambda: presets or Presets())
    try:
        options = {"port": 0, "reply_port": port, **settings}
        async with open_osc(OscSettings.model_validate(options), context) as server:
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                yield Software(sock, server.port, heard)
        await asyncio.sleep(0.05)  # for what was sent at the end
    finally:
        ears.close()


@pytest.fixture
def engine() -> PromptedEngine:
    return PromptedEngine()


@pytest.fixture
async def software(engine: PromptedEngine) -> AsyncGenerator[Software]:
    async with software_beside(engine) as software:
        yield software


async def test_a_request_is_answered_by_sentences_and_one_response(software: Software) -> None:
    software.send("/llm/request", "lamp", "say Good evening. The moon is up.")
    end = await software.end_of("lamp")
    assert end == ("/llm/response", ("lamp", "Good evening. The moon is up.", "stop"))
    assert software.of("delta") == [
        ("lamp", 0, "Good evening."),
        ("lamp", 1, " The moon is up."),
    ]
    assert software.of("event") == [("lamp", "started", 0)]


async def test_whoever_listens_knows_by_which_door_it_came(engine: PromptedEngine) -> None:
    bound: list[dict[str, Any]] = []
    queue = QueuedEngine(engine, QueueSettings())
    queue.stats.listeners.append(lambda *_: bound.append(get_contextvars()))
    async with software_beside(queue) as software:
        software.send("/llm/request", "lamp", "say hello")
        await software.end_of("lamp")
    assert {(each["via"], each["request_id"]) for each in bound} == {("osc", "lamp")}


async def test_a_number_is_an_id_too_and_comes_back_as_text(software: Software) -> None:
    software.send("/llm/request", 7, "say hello")
    assert await software.end_of("7") == ("/llm/response", ("7", "hello", "stop"))


async def test_tokens_come_one_by_one_if_wanted(engine: PromptedEngine) -> None:
    async with software_beside(engine, stream="token") as software:
        software.send("/llm/request", "a", "say one two three")
        await software.end_of("a")
        assert [text for _, _, text in software.of("delta")] == ["one", " two", " three"]


async def test_a_preset_fills_in_what_is_left_out(engine: PromptedEngine) -> None:
    presets = Presets({"oracle": Preset(prompt="say What do you see?")})
    async with software_beside(engine, presets) as software:
        software.send("/llm/request", "a", "", "oracle")
        assert (await software.end_of("a"))[1][1] == "What do you see?"
        software.send("/llm/request", "b", "", "nobody")
        assert (await software.end_of("b"))[1][1] == "preset_not_found"
        software.send("/llm/request", "c")
        assert (await software.end_of("c"))[1][1] == "invalid_request"


async def test_a_preset_of_the_settings_holds_for_all(engine: PromptedEngine) -> None:
    presets = Presets({"oracle": Preset(prompt="say Hm."), "robot": Preset(prompt="say Beep.")})
    async with software_beside(engine, presets, preset="robot") as software:
        software.send("/llm/request", "a", "")
        assert (await software.end_of("a"))[1][1] == "Beep."


async def test_a_failure_is_one_error_or_the_fallback_line(engine: PromptedEngine) -> None:
    presets = Presets({"sibyl": Preset(fallback="I am silent tonight.")})
    async with software_beside(engine, presets) as software:
        software.send("/llm/request", "a", "fail")
        name, (_, code, message) = await software.end_of("a")
        assert (name, code, message) == ("/llm/error", "internal", "it was told to fail")
        software.send("/llm/request", "b", "fail", "sibyl")
        end = await software.end_of("b")
        assert end == ("/llm/response", ("b", "I am silent tonight.", "internal"))


async def test_a_crash_is_an_error_too(engine: PromptedEngine) -> None:
    engine.error = ValueError("a secret")
    async with software_beside(engine) as software:
        software.send("/llm/request", "a", "say hello")
        name, (_, code, message) = await software.end_of("a")
        assert (name, code) == ("/llm/error", "internal")
        assert "secret" not in message


async def test_a_request_is_cancelled(software: Software, engine: PromptedEngine) -> None:
    software.send("/llm/request", "a", "hold on")
    await eventually(lambda: bool(engine.asked))
    software.send("/llm/cancel", "a")
    assert (await software.end_of("a"))[1][1] == "cancelled"
    await eventually(lambda: engine.num_running == 0)
    software.send("/llm/cancel", "a")  # is gone; nobody minds
    software.send("/llm/request", "b", "say still here")
    assert (await software.end_of("b"))[1][1] == "still here"


async def test_who_asks_again_gets_the_latest_answer_only(
    software: Software, engine: PromptedEngine
) -> None:
    software.send("/llm/request", "a", "hold on")
    await eventually(lambda: bool(engine.asked))
    software.send("/llm/request", "a", "say two")
    await eventually(lambda: bool(software.of("response")))
    assert software.of("response") == [("a", "two", "stop")]
    assert [(a, code) for a, code, _ in software.of("error")] == [("a", "replaced")]


async def test_a_full_queue_is_said(software: Software, engine: PromptedEngine) -> None:
    software.send("/llm/request", "first", "hold on")
    await eventually(lambda: bool(engine.asked))
    for number in range(6):
        software.send("/llm/request", f"n{number}", "say hello")
    await eventually(lambda: len(software.of("error")) == 2)
    assert {code for _, code, _ in software.of("error")} == {"queue_full"}
    assert ("n0", "queued", 1) in software.of("event")


async def test_what_is_in_hand_hears_of_the_stop(engine: PromptedEngine) -> None:
    async with software_beside(engine) as software:
        software.send("/llm/request", "a", "hold on")
        await eventually(lambda: bool(engine.asked))
    assert [(a, code) for a, code, _ in software.of("error")] == [("a", "shutting_down")]


@pytest.mark.parametrize(
    ("address", "arguments", "code"),
    [
        ("/llm/request", (), "invalid_id"),
        ("/llm/request", (b"bytes", "hello"), "invalid_id"),
        ("/llm/request", ("x" * 65, "hello"), "invalid_id"),
        ("/llm/request", ("", "hello"), "invalid_id"),
        ("/llm/request", ("a", 5), "invalid_request"),
        ("/llm/request", ("a", "hello", "oracle", "more"), "invalid_request"),
        ("/llm/cancel", (), "invalid_id"),
        ("/llm/generate", ("a", "hello"), "invalid_request"),
    ],
)
async def test_bad_messages_have_one_error(
    software: Software, address: str, arguments: tuple[Any, ...], code: str
) -> None:
    software.send(address, *arguments)
    await eventually(lambda: bool(software.of("error")))
    assert [found for _, found, _ in software.of("error")] == [code]


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\x00",
        b"hello",
        b"/llm/request",
        b"#bundle\x00",
        b"#bundle\x00" + 8 * b"\x00" + b"\xff\xff\xff\xfc",  # read for ever by python-osc itself
        6 * (b"#bundle\x00" + 8 * b"\x00" + b"\x00\x00\x01\x00"),
        b"/llm/request\x00\x00\x00\x00,si\x00",
    ],
)
async def test_garbage_is_an_error_and_no_end(software: Software, datagram: bytes) -> None:
    software.send_bytes(datagram)
    software.send("/llm/request", "a", "say still here")
    assert (await software.end_of("a"))[1][1] == "still here"
    assert all(code in ("invalid_request", "invalid_id") for _, code, _ in software.of("error"))


async def test_a_long_answer_is_cut_to_one_datagram(
    software: Software, engine: PromptedEngine
) -> None:
    long = " ".join(["Über den Brücken."] * 600)
    software.send("/llm/request", "a", f"say {long}")
    _, (_, text, reason) = await software.end_of("a")
    assert reason == "length"
    assert len(text.encode()) <= MAX_TEXT_BYTES
    assert long.startswith(text)


def test_only_who_is_named_may_ask() -> None:
    open_to_some = OscSettings.model_validate({"host": "0.0.0.0", "allow_from": ["192.168.1.0/24"]})
    allowed = [h for h in ("192.168.1.7", "192.168.2.7", "127.0.0.1", "::1", "fe80::1%eth0")
               if open_to_some.allows(h)]  # fmt: skip
    assert allowed == ["192.168.1.7", "127.0.0.1", "::1"]
    with pytest.raises(ValueError, match="allow_from"):
        OscSettings(host="0.0.0.0")


async def test_a_door_to_the_network_is_said(
    engine: PromptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    async with software_beside(engine):
        assert "unprotected" not in capsys.readouterr().out
    async with software_beside(engine, host="0.0.0.0", allow_from=["192.168.1.0/24"]) as software:
        assert "osc.unprotected" in capsys.readouterr().out
        software.send("/llm/request", "a", "say hello")
        assert (await software.end_of("a"))[1][1] == "hello"


async def test_a_port_that_is_taken_is_said(engine: PromptedEngine) -> None:
    async with software_beside(engine) as software:
        settings = OscSettings(port=software.port)
        with pytest.raises(ConfigurationError, match="can't listen"):
            async with open_osc(settings, BridgeContext("stage", engine)):
                pass


async def test_the_tools_of_liblo_are_answered(engine: PromptedEngine, tmp_path: Path) -> None:
    send = require_program("oscsend", "liblo-tools")
    dump = require_program("oscdump", "liblo-tools")
    port = free_port()
    log = tmp_path / "dump"
    with log.open("wb") as output:
        dumping = await asyncio.create_subprocess_exec(dump, "-L", str(port), stdout=output)
    try:
        async with software_beside(engine, reply_port=port) as software:
            where = (HOST, str(software.port))
            for number in range(50):  # until it listens
                request = ("/llm/request", "ss", f"q{number}", "say Good evening.")
                sending = await asyncio.create_subprocess_exec(send, *where, *request)
                assert await sending.wait() == 0
                await asyncio.sleep(0.1)
                if "/llm/response" in log.read_text():
                    break
            assert '/llm/response sss "q' in log.read_text()
            assert '"Good evening." "stop"' in log.read_text()
    finally:
        dumping.kill()
        await dumping.wait()
