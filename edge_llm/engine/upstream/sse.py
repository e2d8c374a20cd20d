"""Server-sent events, as far as OpenAI's dialect uses them: bytes in, the data of each event out.

There is no input or output here. Lines are decoded when they are whole, so a character may arrive
in two pieces. Comments (pings) and all fields but ``data`` are skipped.
"""

from collections.abc import Iterator

from edge_llm.errors import UpstreamError

__all__ = ["MAX_EVENT_BYTES", "EventParser"]

MAX_EVENT_BYTES = 4 * 2**20
"""Of one event; whoever sends more is no server of chat completions."""


class EventParser:
    """Puts events together from whatever pieces they arrive in."""

    def __init__(self) -> None:
        self._line = bytearray()  # the last one, not ended yet
        self._data: list[str] = []
        self._num_bytes = 0  # of the event that is under way

    def feed(self, piece: bytes) -> Iterator[str]:
        """Take bytes; yield the data of each event that they complete.

        Raises:
            UpstreamError: an event is too long to be one.
        """
        *lines, rest = piece.split(b"\n")
        for line in lines:
            self._add(line + b"\n")
            yield from self._end_line()
        self._add(rest)

    def finish(self) -> Iterator[str]:
        """Yield the last event if the stream ended without the empty line that should follow it."""
        yield from self._end_line()
        yield from self._end_event()

    def _add(self, piece: bytes) -> None:
        self._line += piece
        self._num_bytes += len(piece)
        if self._num_bytes > MAX_EVENT_BYTES:
            raise UpstreamError(f"the server sent an event of more than {MAX_EVENT_BYTES} bytes")

    def _end_line(self) -> Iterator[str]:
        line = self._line.decode(errors="replace").removesuffix("\n").removesuffix("\r")
        self._line.clear()
        if not line:
            yield from self._end_event()
            return
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))

    def _end_event(self) -> Iterator[str]:
        data, self._data, self._num_bytes = self._data, [], 0
        if data:
            yield "\n".join(data)
