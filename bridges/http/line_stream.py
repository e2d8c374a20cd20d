"""Lines of JSON that begin late and end on a word about why, as Ollama streams."""

import json
from collections.abc import Mapping

from aiohttp import web

from bridges.http.errors import OLLAMA_ROOT, error_body
from bridges.http.event_stream import EventStream
from edge_llm.errors import EdgeLLMError

__all__ = ["LineStream"]


class LineStream(EventStream):
    """The body of one streamed answer. Silence stays silence: clients parse every line."""

    ping = None

    def __init__(self, request: web.Request) -> None:
        super().__init__(request, {"Content-Type": "application/x-ndjson"})

    def describe(self, error: EdgeLLMError) -> Mapping[str, object]:
        """Make the last line of a stream that fails."""
        return error_body(error, OLLAMA_ROOT)

    def frame(self, payload: Mapping[str, object] | str) -> bytes:
        """Make a line."""
        return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
