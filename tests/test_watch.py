"""``edge-llm watch`` in a pipe and in a terminal: what it shows, and that it leaves no mess."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.brokers import Mosquitto
from tests.clients import eventually
from tests.programs import HOST, require_program
from tests.prompted_engine import PromptedEngine
from tests.remote import paced_node
from tests.stage import serving

EDGE_LLM = Path(sys.executable).parent / "edge-llm"


# In a pipe ----------------------------------------------------------------------------------------


@asynccontextmanager
async def watching(
    port: int, *arguments: str, **environment: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(str(EDGE_LLM), "watch", "--port", str(port), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        async with asyncio.timeout(30):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_with(process: asyncio.subprocess.Process, text: str) -> str:
    if process.stdout is None:
        pytest.fail("it has no output")
    while line := (await process.stdout.readline()).decode():
        if text in line:
            return line.strip()
    pytest.fail(f"it ended without {text!r}")


@pytest.mark.parametrize("texts", [True, False])
async def test_in_a_pipe_each_thing_is_a_line(mosquitto: Mosquitto, texts: bool) -> None:
    broker = mosquitto.broker()
    arguments = [] if texts else ["--no-texts"]
    async with (
        serving(broker.settings(), PromptedEngine()),
        watching(mosquitto.port, *arguments) as process,
        broker.client() as client,
    ):
        assert (await line_with(process, "node stage online"))[2] == ":"
        client.publish("llm/request/button7", "say Good\x1b[2J evening")
        told = (": say Good\N{REPLACEMENT CHARACTER}[2J evening", ": Good") if texts else ("", "")
        asked = await line_with(process, " request button7 asked")
        assert asked.partition("asked")[2] == told[0]
        reply = await line_with(process, " reply button7 text, ")
        assert ("Good" in reply) == texts
        client.publish("llm/request/bad", '{"promt": 1}')
        await line_with(process, " error bad unknown_field: there is no field 'promt'")
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert (process.returncode, out, err) == (0, b"", b"")


async def test_it_ends_by_itself_and_publishes_nothing(tmp_path: Path) -> None:
    """Its account may read and no more."""
    (tmp_path / "acl").write_text("topic read #\n")
    with Mosquitto(tmp_path, {}, f"acl_file {tmp_path / 'acl'}", "log_type all") as mosquitto:
        async with watching(mosquitto.port, "--seconds", "1") as process:
            out, err = await process.communicate()
            assert (process.returncode, out, err) == (0, b"", b"")
        log = mosquitto.log.read_text()
    assert "PUBLISH from edge-llm-watch" not in log
    assert "Received SUBSCRIBE from edge-llm-watch" in log
    assert "Received DISCONNECT from edge-llm-watch" in log


async def test_it_ends_when_nobody_reads_any_more(mosquitto: Mosquitto) -> None:
    async with mosquitto.broker().client() as client:
        client.publish("llm/node/x/status", "online", retain=True)
        command = f"{EDGE_LLM} watch --port {mosquitto.port} --seconds 20 | head -n 1"
        process = await asyncio.create_subprocess_shell(
            command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        while process.returncode is None:  # until it has noticed, by its next line
            client.publish("llm/request/a", "Hi", 0)
            with_timeout = asyncio.wait_for(process.wait(), 0.1)
            await asyncio.gather(with_timeout, return_exceptions=True)
        out, err = await process.communicate()
    assert out.endswith(b"node x online\n")
    assert err == b""


async def test_a_reader_that_stops_costs_no_memory(mosquitto: Mosquitto) -> None:
    async with watching(mosquitto.port) as process, mosquitto.broker().client() as client:
        client.publish("llm/node/x/status", "online", retain=True)
        await line_with(process, "node x online")
        for number in range(3000):
            client.publish("llm/request/a", f"{number} " + 300 * "x", 0)
        await client.subscribe("llm/request/b", "llm/request/c", qos=0)
        client.publish("llm/request/b", "over", 1)
        await client.wait_for("llm/request/b")
        lost = await line_with(process, " lines more, which nobody read in time")
        assert 500 < int(lost.split()[1]) < 2500
        client.publish("llm/request/c", "and on", 1)
        await line_with(process, " request c asked: and on")


async def test_without_a_broker_it_says_why() -> None:
    async with watching(1, "--seconds", "1") as process:
        _, err = await process.communicate()
        assert process.returncode == 0
        assert b"mqtt.unreachable" in err


# In a terminal ------------------------------------------------------------------------------------


class Terminal:
    """tmux, with a shell command in a window of its own."""

    def __init__(self, socket: Path) -> None:
        self._tmux = [require_program("tmux", "tmux"), "-S", str(socket), "-f", "/dev/null"]

    def do(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._tmux, *arguments], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout

    def screen(self) -> list[str]:
        return self.do("capture-pane", "-p").removesuffix("\n").split("\n")

    async def wait_for(self, text: str) -> list[str]:
        """Wait until a text can be seen, and return what else can be seen."""
        await eventually(
            lambda: text in "\n".join(self.screen()),
            20.0,
            lambda: f"{text!r} in:\n" + "\n".join(self.screen()),
        )
        return self.screen()


@contextmanager
def terminal(
    directory: Path, command: str, width: int = 80, height: int = 24
) -> Iterator[Terminal]:
    terminal = Terminal(directory / "tmux")
    script = directory / "run.sh"
    script.write_text(f"trap : INT\n{command}\necho LEFT $?\nsleep 60\n")
    size = ("-x", str(width), "-y", str(height))
    terminal.do("new-session", "-d", *size, f"bash {script}")
    try:
        yield terminal
    finally:
        terminal.do("kill-server")


async def test_a_terminal_shows_it_live_and_is_clean_afterwards(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    command = f"{EDGE_LLM} watch --host {HOST} --port {mosquitto.port}"
    async with mosquitto.broker().client() as client:
        with terminal(tmp_path, command) as screen:
            await screen.wait_for("none yet")
            with paced_node(mosquitto.port, tmp_path, tokens_per_s="20"):
                await screen.wait_for("idle")
                request = {"prompt": "Hello", "stream": True, "events": True}
                client.publish("llm/request/esp1/1", json.dumps(request))
                client.publish("llm/request/esp2/1", json.dumps(request))
                client.publish("llm/request/bad", '{"promt": 1}')
                client.publish("llm/request/evil", "\x1b[2J\x1b[H[red]x[/red]\x07")
                await screen.wait_for("speaking")
                lines = await screen.wait_for("queued 1")
                assert lines[0].startswith(f"edge-llm at {HOST}:{mosquitto.port}")
                assert len(lines) == 24
                assert any(line.startswith("pi5") and "generating" in line for line in lines)
                await screen.wait_for("unknown_field")
                await screen.wait_for("[red]x[/red]")
                screen.do("resize-window", "-x", "120", "-y", "40")
                lines = await screen.wait_for("This is a rehearsal.")
                assert len(lines) == 40
            await screen.wait_for("offline")
            assert screen.do("display", "-p", "#{alternate_on}").strip() == "1"
            screen.do("send-keys", "C-c")
            lines = await screen.wait_for("LEFT 0")
            assert [line for line in lines if line] == ["^CLEFT 0"] or lines[0] == "LEFT 0"
            flags = "#{alternate_on} #{cursor_flag}"
            await eventually(lambda: screen.do("display", "-p", flags).strip() == "0 1")


async def test_a_terminal_shows_why_there_is_no_connection(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    command = f"{EDGE_LLM} watch --host {HOST} --port {mosquitto.port} --seconds 30"
    with terminal(tmp_path, command) as screen:
        await screen.wait_for("0 in hand")
        mosquitto.stop()
        lines = await screen.wait_for("mqtt.")
        assert lines[0].startswith(f"{HOST}:{mosquitto.port}: mqtt.")
        mosquitto.start()
        await screen.wait_for("0 in hand")
