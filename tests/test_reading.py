"""A reply as its messages come in, in whatever order and however often."""

import json

import pytest

from edge_llm.client.reading import Reading
from edge_llm.errors import EdgeLLMError, EngineFailedError, ExpiredError
from edge_llm.protocol import Delta, Done, Event, Queued, Started


def delta(seq: int, text: str) -> tuple[str, bytes]:
    return "delta", json.dumps({"seq": seq, "text": text}).encode()


def event(name: str, **fields: object) -> tuple[str, bytes]:
    return "event", json.dumps({"event": name, **fields}).encode()


def final(text: str = "", **fields: object) -> tuple[str, bytes]:
    return "", json.dumps({"id": "a", "node": "x", "text": text, **fields}).encode()


def read(*messages: tuple[str, bytes], reading: Reading | None = None) -> list[Event]:
    reading = reading or Reading()
    return [event for message in messages for event in reading.read(*message)]


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Delta)]


def test_events_come_as_the_node_says_them() -> None:
    events = read(
        event("queued", position=2),
        event("queued", position=1),
        event("started"),
        event("first_token"),
        delta(0, "Hi"),
        event("done", finish_reason="stop"),
        final("Hi", finish_reason="stop", dropped_messages=2),
    )
    assert events == [
        Queued(position=2),
        Queued(position=1),
        Started(),
        Delta(text="Hi"),
        Done(finish_reason="stop", dropped_messages=2),
    ]


@pytest.mark.parametrize("first", [delta(0, "Hi"), delta(7, "Hi"), final("Hi"), final("")])
def test_it_has_started_before_anything_is_said(first: tuple[str, bytes]) -> None:
    assert read(first)[0] == Started()
    assert read(first, event("started"), event("queued", position=1)).count(Started()) == 1


@pytest.mark.parametrize(
    ("sent", "yielded"),
    [
        ([0, 1, 2, 3], ["a", "b", "c", "d"]),
        ([], ["abcd"]),
        ([0, 2, 3], ["a", "bcd"]),
        ([1, 2, 3], ["abcd"]),
        ([0, 0, 1, 2, 3], ["a", "b", "c", "d"]),
        ([0, 1, 1, 2, 3], ["a", "b", "cd"]),
        ([0, 1, 0, 1, 2, 3], ["a", "b", "c", "d"]),
        ([0, 2, 0, 1, 2, 3], ["a", "b", "c", "d"]),
        ([0, 1, 0, 2, 3], ["a", "b", "cd"]),
    ],
    ids=str,
)
def test_each_word_is_said_once_whatever_gets_lost_or_comes_again(
    sent: list[int], yielded: list[str]
) -> None:
    events = read(*(delta(seq, "abcd"[seq]) for seq in sent), final("abcd"))
    assert texts(events) == yielded


def test_a_second_telling_may_come_in_other_pieces() -> None:
    events = read(delta(0, "Good "), delta(1, "eve"), delta(0, "Good evening"), delta(1, " to you"))
    assert texts(events) == ["Good ", "eve", "ning", " to you"]


def test_after_a_restart_no_delta_of_the_middle_is_taken_for_the_next() -> None:
    reading = Reading()
    assert texts(read(delta(0, "a"), reading=reading)) == ["a"]
    reading.expect_anew()
    assert texts(read(delta(1, "X"), final("abc"), reading=reading)) == ["bc"]


@pytest.mark.parametrize(
    "other", [[delta(0, "Bad")], [delta(0, "G"), delta(1, "x")], [final("Bad")], [final("Go")]]
)
def test_other_words_than_before_are_an_error(other: list[tuple[str, bytes]]) -> None:
    with pytest.raises(EngineFailedError, match="began anew"):
        read(delta(0, "Good"), *other)


def test_a_refused_copy_is_no_error() -> None:
    refused = b'{"code": "duplicate_id", "message": "still being answered"}'
    reading = Reading()
    assert read(("error", refused), ("error", b"duplicate_id: still"), reading=reading) == []
    assert not reading.is_over


@pytest.mark.parametrize("payload", [b'{"code": "expired", "message": "late"}', b"expired: late"])
def test_other_errors_end_it(payload: bytes) -> None:
    reading = Reading()
    with pytest.raises(ExpiredError, match="late"):
        reading.read("error", payload)
    assert reading.is_over


def test_a_failure_is_the_error_that_the_node_names() -> None:
    body = {"code": "from_the_future", "message": "oh", "retry_after_s": 2.5}
    with pytest.raises(EdgeLLMError, match="oh") as caught:
        read(final("fallback", error=body))
    assert (caught.value.code, caught.value.retry_after_s) == ("from_the_future", 2.5)


@pytest.mark.parametrize("payload", [b"", b"plain text", b"{}", b"\xff", b'{"id": 1}'])
def test_what_can_not_be_read_is_passed_over_but_for_the_final_message(payload: bytes) -> None:
    reading = Reading()
    messages = [("delta", payload), ("event", payload), ("part/0", payload), ("new", payload)]
    assert read(*messages, reading=reading) == []
    with pytest.raises(EngineFailedError, match="can't be read"):
        reading.read("", payload)
    assert reading.is_over
