"""Server-sent events: the same whatever pieces they come in."""

import pytest

from edge_llm.engine.upstream.sse import MAX_EVENT_BYTES, EventParser
from edge_llm.errors import UpstreamError

STREAM = (
    ": ping\r\n\r\n"
    'data: {"a":"Größe 🦊"}\n\n'
    "event: message\nid: 7\ndata:no space\n\n"
    "\n\n"
    "data: two\ndata: lines\r\n\r\n"
    "data: [DONE]\n\n"
).encode()
EVENTS = ['{"a":"Größe 🦊"}', "no space", "two\nlines", "[DONE]"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, len(STREAM)])
def test_the_borders_of_the_pieces_do_not_matter(size: int) -> None:
    parser = EventParser()
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert [event for piece in pieces for event in parser.feed(piece)] == EVENTS
    assert list(parser.finish()) == []


@pytest.mark.parametrize("end", [b"data: last", b"data: last\n", b"data: last\r\n"])
def test_the_last_event_may_end_with_the_stream(end: bytes) -> None:
    parser = EventParser()
    assert list(parser.feed(end)) == []
    assert list(parser.finish()) == ["last"]


def test_bytes_that_are_no_text_do_not_break_it() -> None:
    assert list(EventParser().feed(b"data: a\xff\xc3\n\n")) == ["a\ufffd\ufffd"]


@pytest.mark.parametrize("piece", [b"x" * 65536, b"data: x\n" * 8192], ids=["line", "lines"])
def test_an_event_without_end_is_given_up(piece: bytes) -> None:
    parser = EventParser()
    for _ in range(MAX_EVENT_BYTES // len(piece)):
        assert list(parser.feed(piece)) == []
    with pytest.raises(UpstreamError, match="more than"):
        list(parser.feed(piece))


def test_many_short_events_are_no_long_one() -> None:
    parser = EventParser()
    num_events = sum(len(list(parser.feed(b"data: x\n\n" * 8192))) for _ in range(100))
    assert num_events == 819_200
