"""Open Sound Control: whatever a datagram holds, each request of it has one end, and no more."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pythonosc.osc_message_builder import OscMessageBuilder
from pythonosc.osc_packet import OscPacket

from bridges.osc import OscBridge, OscSettings, check_bundle
from edge_llm.plugin import BridgeContext
from edge_llm.preset import Preset, Presets
from tests.fuzz.target import Target
from tests.prompted_engine import PromptedEngine

PRESETS = Presets({"oracle": Preset(prompt="say Hm.", fallback="Not today.")})
SENDER = ("127.0.0.1", 9001)
LIMIT_S = 2.0


class Heard(asyncio.DatagramTransport):
    """Where the bridge sends to."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[str, list[Any]]] = []

    def sendto(self, data: Any, addr: Any = None) -> None:
        [timed] = OscPacket(data).messages
        self.messages.append((timed.message.address, timed.message.params))


def check(data: bytes) -> None:
    asyncio.run(_check(data))


async def _check(data: bytes) -> None:
    heard = Heard()
    context = BridgeContext("stage", PromptedEngine(), presets=lambda: PRESETS)
    bridge = OscBridge(OscSettings(), context)
    bridge.connection_made(heard)
    bridge.datagram_received(data, SENDER)
    async with asyncio.timeout(LIMIT_S):
        while bridge.num_in_hand:  # noqa: ASYNC110 - thousands of times a second
            await asyncio.sleep(0)
    await asyncio.sleep(0)  # for what is said of the last one
    asked = Counter(map(str, _ids(data)))
    ends = Counter(a[0] for name, a in heard.messages if name in ("/llm/response", "/llm/error"))
    del ends[""]  # of what has no id
    assert ends <= asked, "an end without a beginning"
    assert asked <= ends, "a beginning without an end"


def _ids(data: bytes) -> Iterable[object]:
    """Return the ids of the requests that can be read."""
    try:
        check_bundle(data)
        messages = [timed.message for timed in OscPacket(data).messages]
    except Exception:  # noqa: BLE001 - the library's own; the bridge says what is wrong
        return []
    return [
        message.params[0]
        for message in messages
        if message.address == "/llm/request"
        and message.params
        and not isinstance(message.params[0], bytes | list | None)
        and 0 < len(str(message.params[0])) <= 64
    ]


def _message(address: str, *arguments: Any) -> bytes:
    builder = OscMessageBuilder(address)
    for argument in arguments:
        builder.add_arg(argument)
    return builder.build().dgram


def seeds() -> Iterable[bytes]:
    asked = _message("/llm/request", "lamp", "say Good evening. The moon is up.")
    cancel = _message("/llm/cancel", 7)
    yield asked
    yield _message("/llm/request", 7, "fail", "oracle")
    yield _message("/llm/request", 1.5, "", "oracle")
    yield _message("/llm/request", True, "hello", "nobody")
    yield cancel
    parts = b"".join(len(part).to_bytes(4, "big") + part for part in (asked, cancel, asked))
    yield b"#bundle\x00" + (1).to_bytes(8, "big") + parts


TARGET = Target(
    check, seeds, ("/llm/request", "/llm/cancel", "#bundle\x00", ",ss\x00", ",is\x00", ",[i]")
)
