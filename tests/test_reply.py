"""What goes out for one request."""

import json
from typing import Any

import pytest

from edge_llm.errors import ExpiredError, InvalidRequestError, QueueFullError, ReplacedError
from edge_llm.outgoing import Outgoing, ReplyTo
from edge_llm.protocol import Delta, Done, MqttRequest, Queued, Started, Timing, Usage
from edge_llm.service.reply import Reply

TO = ReplyTo("llm/response/a/1", qos=1, correlation=b"\x00\xff")
USAGE = Usage(prompt_tokens=3, completion_tokens=5)
DONE = Done(finish_reason="stop", usage=USAGE, timing=Timing(total_s=1.5))


def make_reply(to: ReplyTo = TO, fallback: str | None = None, **request: Any) -> Reply:
    asked = MqttRequest.model_validate({"prompt": "Hello", **request})
    as_json = asked.format != "text"
    return Reply(to, "a/1", "stage", as_json=as_json, request=asked, fallback=fallback)


def finish(reply: Reply, done: Done | None = DONE) -> list[Outgoing]:
    ending = reply.finish(done)
    return [*ending.last, *ending.finals]


def fail(reply: Reply, error: Any) -> list[Outgoing]:
    ending = reply.fail(error)
    return [*ending.last, *ending.finals]


def say(reply: Reply, *texts: str) -> list[Outgoing]:
    return [outgoing for text in texts for outgoing in reply.add(Delta(text=text))]


def test_a_reply_that_is_not_streamed_is_one_message() -> None:
    reply = make_reply()
    reply.name_model("tiny")
    assert not say(reply, "Good ", "evening.")
    [final] = finish(reply, DONE)
    assert (final.topic, final.content_type) == ("llm/response/a/1", "application/json")
    assert json.loads(final.payload) == {
        "id": "a/1",
        "node": "stage",
        "model": "tiny",
        "text": "Good evening.",
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": 3,
            "cached_tokens": 0,
            "completion_tokens": 5,
            "reasoning_tokens": 0,
        },
        "timing": {"queue_s": 0.0, "total_s": 1.5},
    }


def test_a_text_reply_is_the_bare_text() -> None:
    reply = make_reply(format="text")
    say(reply, "Grüße")
    assert finish(reply, DONE) == [
        Outgoing(
            "llm/response/a/1",
            "Grüße".encode(),
            "text/plain",
            qos=1,
            correlation=b"\x00\xff",
            properties=(("node", "stage"), ("finish_reason", "stop")),
            keep=True,
        )
    ]


@pytest.mark.parametrize("stream", ["token", "sentence"])
def test_deltas_are_numbered_and_add_up_to_the_text(stream: str) -> None:
    text = "One two. Three?\nFour… five"
    reply = make_reply(stream=stream)
    *deltas, final = [*say(reply, *text), *finish(reply, DONE)]
    payloads = [json.loads(delta.payload) for delta in deltas]
    assert {delta.topic for delta in deltas} == {"llm/response/a/1/delta"}
    assert [payload["seq"] for payload in payloads] == list(range(len(deltas)))
    assert "".join(payload["text"] for payload in payloads) == text
    assert json.loads(final.payload)["text"] == text


def test_sentences_come_when_they_end() -> None:
    reply = make_reply(stream="sentence", format="text")
    pieces = say(reply, "One ", "two. Th", "ree and four! ", "Five")
    assert [d.payload for d in pieces] == [b"One two.", b" Three and four!"]


def test_bare_text_deltas_add_up_too() -> None:
    reply = make_reply(stream="token", format="text")
    *deltas, final = [*say(reply, "Good ", "", "evening"), *finish(reply, DONE)]
    assert [delta.payload for delta in deltas] == [b"Good ", b"evening"]
    assert final.payload == b"Good evening"


def test_without_an_end_the_request_was_cancelled() -> None:
    reply = make_reply()
    say(reply, "Half a")
    [final] = finish(reply, None)
    body = json.loads(final.payload)
    assert (body["text"], body["finish_reason"]) == ("Half a", "cancelled")
    assert "usage" not in body


@pytest.mark.parametrize("stream", ["token", "word", "sentence"])
@pytest.mark.parametrize("text_format", ["json", "text"])
def test_deltas_add_up_to_the_text_also_where_that_is_cut(stream: str, text_format: str) -> None:
    reply = make_reply(max_bytes=18, stream=stream, format=text_format)
    *deltas, final = [*say(reply, "Eins ", "und ", "zwei ", "und ", "drei."), *finish(reply)]
    if text_format == "json":
        said = "".join(json.loads(delta.payload)["text"] for delta in deltas)
        text = json.loads(final.payload)["text"]
    else:
        said = b"".join(delta.payload for delta in deltas).decode()
        text = final.payload.decode()
    assert said == text
    assert len(text.encode()) <= 18
    assert text.endswith("…")


def test_max_bytes_cuts_a_text_that_is_not_streamed_at_a_sentence() -> None:
    reply = make_reply(max_bytes=26, format="text")
    say(reply, "Eins und zwei. Und drei und vier und fünf.")
    assert [final.payload for final in finish(reply)] == [b"Eins und zwei."]


def test_parts_hold_the_whole_text_and_each_fits() -> None:
    text = "Eins und zwei sind drei. Das ist eine lange Geschichte, die 🎭 nicht passt."
    for text_format in ("text", "json"):
        reply = make_reply(max_bytes=20, format=text_format, parts=True)
        say(reply, text)
        *parts, final = finish(reply)
        assert [part.topic for part in parts] == [
            f"llm/response/a/1/part/{n}" for n in range(len(parts))
        ]
        assert b"".join(part.payload for part in parts).decode() == text
        assert all(len(part.payload) <= 20 and part.qos == 1 for part in parts)
        assert {part.content_type for part in parts} == {"text/plain"}
        if text_format == "json":
            assert json.loads(final.payload)["parts"] == len(parts)
        else:
            assert len(final.payload) <= 20


def test_deltas_fit_where_parts_do() -> None:
    reply = make_reply(max_bytes=20, format="text", parts=True, stream="sentence")
    text = "Das ist eine sehr lange Geschichte, die nirgends hineinpasst. Ende."
    messages = [*say(reply, text), *finish(reply)]
    deltas = [m.payload for m in messages if m.topic.endswith("/delta")]
    assert b"".join(deltas).decode() == text
    assert max(map(len, deltas)) <= 20


def test_deltas_go_where_a_route_wants_them() -> None:
    reply = make_reply(ReplyTo("speaker/say", "speaker/words"), stream="word", format="text")
    *deltas, final = [*say(reply, "One ", "two"), *finish(reply)]
    assert {delta.topic for delta in deltas} == {"speaker/words"}
    assert final.topic == "speaker/say"


def test_events_tell_an_led_what_happens() -> None:
    reply = make_reply(events=True, format="text")
    messages = [
        *reply.add(Queued(position=2)),
        *reply.add(Queued(position=1)),
        *reply.add(Started()),
        *say(reply, "", "One ", "two"),
        *finish(reply),
    ]
    events = [json.loads(m.payload) for m in messages if m.topic == "llm/response/a/1/event"]
    assert events == [
        {"event": "queued", "position": 2},
        {"event": "queued", "position": 1},
        {"event": "started"},
        {"event": "first_token"},
        {"event": "done", "finish_reason": "stop"},
    ]
    *_, event, final = fail(make_reply(events=True, format="text"), QueueFullError("too many"))
    assert json.loads(event.payload) == {"event": "error", "code": "queue_full"}
    assert final.payload.startswith(b"queue_full")


def test_a_fallback_line_is_said_when_there_is_no_answer() -> None:
    error, final = fail(
        make_reply(format="text", fallback="The oracle sleeps."), QueueFullError("too many")
    )
    assert (error.topic, final.topic) == ("llm/response/a/1/error", "llm/response/a/1")
    assert final.payload == b"The oracle sleeps."
    assert ("error", "queue_full") in final.properties
    [final] = fail(make_reply(fallback="The oracle sleeps."), QueueFullError("too many"))
    body = json.loads(final.payload)
    assert (body["text"], body["error"]["code"]) == ("The oracle sleeps.", "queue_full")


@pytest.mark.parametrize("error", [ExpiredError("late"), ReplacedError("newer")])
def test_nothing_is_said_late_or_for_nobody(error: Any) -> None:
    [final] = fail(make_reply(format="text", fallback="The oracle sleeps."), error)
    assert final.topic == "llm/response/a/1/error"


def test_errors_and_fallbacks_fit_too() -> None:
    reply = make_reply(format="text", max_bytes=24, fallback="The oracle sleeps until tomorrow.")
    error, final = fail(reply, QueueFullError("as many requests are waiting as may"))
    assert len(error.payload) <= 24
    assert error.payload.startswith(b"queue_full: ")
    assert len(final.payload) <= 24


def test_only_the_final_message_is_retained() -> None:
    to = ReplyTo("sign/text", qos=1, retain=True)
    reply = make_reply(to, max_bytes=20, parts=True, format="text", stream="token", events=True)
    messages = [*reply.add(Started()), *say(reply, "Hello and good evening, all."), *finish(reply)]
    assert [m.topic for m in messages if m.retain] == ["sign/text"]


def test_reasoning_is_kept_apart() -> None:
    reply = make_reply(stream="token")
    assert not list(reply.add(Delta(reasoning="Hm.")))
    say(reply, "Yes")
    body = json.loads(finish(reply)[-1].payload)
    assert (body["reasoning"], body["text"]) == ("Hm.", "Yes")


def test_json_clients_find_the_error_in_the_final_message() -> None:
    [final] = fail(make_reply(model="tiny"), QueueFullError("too many", retry_after_s=2.0))
    assert final.topic == "llm/response/a/1"
    assert json.loads(final.payload) == {
        "id": "a/1",
        "node": "stage",
        "model": "tiny",
        "text": "",
        "error": {"code": "queue_full", "message": "too many", "retry_after_s": 2.0},
    }


def test_text_clients_never_find_an_error_where_answers_are() -> None:
    [final] = fail(make_reply(format="text"), QueueFullError("too many"))
    assert (final.topic, final.payload) == ("llm/response/a/1/error", b"queue_full: too many")


def test_a_refusal_stays_off_the_topic_of_the_request_that_has_the_id() -> None:
    refused = make_reply().refuse(InvalidRequestError("no", param="top_p"))
    assert refused.topic == "llm/response/a/1/error"
    assert json.loads(refused.payload) == {
        "code": "invalid_request",
        "message": "no",
        "param": "top_p",
    }
