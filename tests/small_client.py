"""A microcontroller at the other end: MQTT 3.1.1 byte by byte, with 256 bytes to read into.

As PubSubClient 2.8 does it (src/PubSubClient.cpp, ``readPacket``): a packet that is longer than
the buffer, with its header and its topic, is read and thrown away. Nobody is told, and a QoS 1
message of that size is never acknowledged.
"""

import asyncio
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.programs import HOST

BUFFER_BYTES = 256
CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 1, 2, 3, 4, 8, 9


@dataclass
class SmallClient:
    """A client with a small buffer; what did not fit is only counted."""

    port: int
    client_id: str = "esp1"
    messages: list[tuple[str, bytes]] = field(default_factory=list)
    num_discarded: int = 0
    largest: int = 0
    """Bytes of the largest packet that came, with its header."""

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(HOST, self.port)
        body = b"\x00\x04MQTT\x04\x02" + struct.pack("!H", 60) + _text(self.client_id)
        self._write(CONNECT << 4, body)
        kind, body = await self._read()
        assert (kind >> 4, body[1]) == (CONNACK, 0)
        self._task = asyncio.create_task(self._listen())
        self._subscribed = asyncio.Event()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)

    async def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Subscribe, and wait until the broker has heard."""
        self._subscribed.clear()
        self._write(SUBSCRIBE << 4 | 2, b"\x00\x01" + _text(topic_filter) + bytes([qos]))
        await asyncio.wait_for(self._subscribed.wait(), 5)

    def publish(self, topic: str, payload: bytes, qos: int = 0) -> None:
        """Send a message; PubSubClient itself can only do so at QoS 0."""
        packet_id = b"\x00\x07" if qos else b""
        packet = _text(topic) + packet_id + payload
        assert len(packet) + 5 <= BUFFER_BYTES, "it would not fit into the buffer on the way out"
        self._write(PUBLISH << 4 | qos << 1, packet)

    async def _listen(self) -> None:
        while True:
            kind, body = await self._read()
            if kind >> 4 == SUBACK:
                self._subscribed.set()
            if kind >> 4 != PUBLISH or not body:
                continue
            length = int.from_bytes(body[:2], "big")
            topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
            if kind & 0b110:
                self._write(PUBACK << 4, rest[:2])
                rest = rest[2:]
            self.messages.append((topic, rest))

    async def _read(self) -> tuple[int, bytes]:
        """Read a packet; the body is empty if it did not fit."""
        [kind] = await self._reader.readexactly(1)
        length, shift, num_header = 0, 0, 1
        while True:
            [byte] = await self._reader.readexactly(1)
            num_header += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        body = await self._reader.readexactly(length)
        self.largest = max(self.largest, num_header + length)
        if num_header + length > BUFFER_BYTES:
            self.num_discarded += 1
            return kind, b""
        return kind, body

    def _write(self, kind: int, body: bytes) -> None:
        length, header = len(body), bytearray([kind])
        while True:
            header.append(length & 0x7F | (0x80 if length > 0x7F else 0))
            length >>= 7
            if not length:
                break
        self._writer.write(bytes(header) + body)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("!H", len(data)) + data
