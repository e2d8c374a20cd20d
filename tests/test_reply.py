"""What goes out for one request."""

import json
from typing import Any

import pytest

from edge_llm.errors import InvalidRequestError, QueueFullError
from edge_llm.protocol import Delta, Done, MqttRequest, Timing, Topics, Usage
from edge_llm.reply import Outgoing, Reply

TOPICS = Topics("llm", "stage")
USAGE = Usage(prompt_tokens=3, completion_tokens=5)
DONE = Done(finish_reason="stop", usage=USAGE, timing=Timing(total_s=1.5))


def make_reply(**request: Any) -> Reply:
    asked = MqttRequest.model_validate({"prompt": "Hello", **request})
    return Reply(TOPICS, "a/1", as_json=asked.format == "json", request=asked)


def say(reply: Reply, *texts: str) -> list[Outgoing]:
    return [outgoing for text in texts for outgoing in reply.add(Delta(text=text))]


def test_a_reply_that_is_not_streamed_is_one_message() -> None:
    reply = make_reply()
    reply.name_model("tiny")
    assert not say(reply, "Good ", "evening.")
    [final] = reply.finish(DONE)
    assert (final.topic, final.content_type) == ("llm/response/a/1", "application/json")
    assert json.loads(final.payload) == {
        "id": "a/1",
        "node": "stage",
        "model": "tiny",
        "text": "Good evening.",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "cached_tokens": 0, "completion_tokens": 5},
        "timing": {"queue_s": 0.0, "total_s": 1.5},
    }


def test_a_text_reply_is_the_bare_text() -> None:
    reply = make_reply(format="text")
    say(reply, "Grüße")
    assert list(reply.finish(DONE)) == [
        Outgoing("llm/response/a/1", "Grüße".encode(), "text/plain")
    ]


@pytest.mark.parametrize("stream", ["token", "sentence"])
def test_deltas_are_numbered_and_add_up_to_the_text(stream: str) -> None:
    text = "One two. Three?\nFour… five"
    reply = make_reply(stream=stream)
    *deltas, final = [*say(reply, *text), *reply.finish(DONE)]
    payloads = [json.loads(delta.payload) for delta in deltas]
    assert {delta.topic for delta in deltas} == {"llm/response/a/1/delta"}
    assert [payload["seq"] for payload in payloads] == list(range(len(deltas)))
    assert "".join(payload["text"] for payload in payloads) == text
    assert json.loads(final.payload)["text"] == text


def test_sentences_come_when_they_end() -> None:
    reply = make_reply(stream="sentence", format="text")
    assert [d.payload for d in say(reply, "One ", "two. Th", "ree! ")] == [b"One two.", b" Three!"]


def test_bare_text_deltas_add_up_too() -> None:
    reply = make_reply(stream="token", format="text")
    *deltas, final = [*say(reply, "Good ", "", "evening"), *reply.finish(DONE)]
    assert [delta.payload for delta in deltas] == [b"Good ", b"evening"]
    assert final.payload == b"Good evening"


def test_without_an_end_the_request_was_cancelled() -> None:
    reply = make_reply()
    say(reply, "Half a")
    [final] = reply.finish(None)
    body = json.loads(final.payload)
    assert (body["text"], body["finish_reason"]) == ("Half a", "cancelled")
    assert "usage" not in body


def test_max_bytes_cuts_the_final_text_only() -> None:
    reply = make_reply(max_bytes=18, stream="token")
    deltas = say(reply, "Eins und zwei ", "und drei.")
    [final] = reply.finish(DONE)
    assert b"".join(json.loads(d.payload)["text"].encode() for d in deltas).endswith(b"drei.")
    text = json.loads(final.payload)["text"]
    assert len(text.encode()) <= 18
    assert text == "Eins und zwei…"


def test_reasoning_is_kept_apart() -> None:
    reply = make_reply(stream="token")
    assert not list(reply.add(Delta(reasoning="Hm.")))
    say(reply, "Yes")
    body = json.loads(list(reply.finish(DONE))[-1].payload)
    assert (body["reasoning"], body["text"]) == ("Hm.", "Yes")


def test_json_clients_find_the_error_in_the_final_message() -> None:
    final = make_reply(model="tiny").fail(QueueFullError("too many", retry_after_s=2.0))
    assert final.topic == "llm/response/a/1"
    assert json.loads(final.payload) == {
        "id": "a/1",
        "node": "stage",
        "model": "tiny",
        "text": "",
        "error": {"code": "queue_full", "message": "too many", "retry_after_s": 2.0},
    }


def test_text_clients_never_find_an_error_where_answers_are() -> None:
    final = make_reply(format="text").fail(QueueFullError("too many"))
    assert (final.topic, final.payload) == ("llm/response/a/1/error", b"queue_full: too many")


def test_a_refusal_stays_off_the_topic_of_the_request_that_has_the_id() -> None:
    refused = make_reply().refuse(InvalidRequestError("no", param="top_p"))
    assert refused.topic == "llm/response/a/1/error"
    assert json.loads(refused.payload) == {
        "code": "invalid_request",
        "message": "no",
        "param": "top_p",
    }
