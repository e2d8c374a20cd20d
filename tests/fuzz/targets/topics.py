"""Names of topics: ids in them, filters, and whether two filters overlap, as paho sees it too."""

from collections.abc import Iterable
from contextlib import suppress

import paho.mqtt.client as paho

from edge_llm.errors import InvalidIdError
from edge_llm.topics import Topics, explain_bad_filter, explain_bad_topic, overlaps
from tests.fuzz.source import Source, join
from tests.fuzz.target import Target

TOPICS = Topics("art/llm", "kiosk")


def check(data: bytes) -> None:
    source = Source(data)
    first, second = source.text(), source.text()
    _check_id(first)
    _check_session(first)
    _check_filters(first, second)


def _check_id(text: str) -> None:
    topic = f"{TOPICS.prefix}/request/{text}"
    with suppress(InvalidIdError):
        request_id = TOPICS.request_id(topic)
        assert TOPICS.request(request_id) == topic
        assert TOPICS.request_id(TOPICS.cancel(request_id)) == request_id
        reason = explain_bad_topic(TOPICS.response(request_id, "delta"))
        assert reason is None or "bytes" in reason, "it could not be answered"


def _check_session(text: str) -> None:
    session = TOPICS.session(text)
    if session is not None:
        assert text == f"{TOPICS.prefix}/session/{session}/reset"
        assert paho.topic_matches_sub(TOPICS.reset_filter, text)


def _check_filters(first: str, second: str) -> None:
    if explain_bad_filter(first) or explain_bad_filter(second):
        return
    for topic_filter in (first, second):
        assert (
            paho.Client._filter_wildcard_len_check(topic_filter.encode()) == paho.MQTT_ERR_SUCCESS
        )
        assert overlaps(topic_filter, topic_filter)
        assert overlaps(topic_filter, "#")
    assert overlaps(first, second) == overlaps(second, first)
    if explain_bad_topic(second) is None:
        assert overlaps(first, second) == paho.topic_matches_sub(first, second)


def seeds() -> Iterable[bytes]:
    pairs = [
        ("kiosk-7/3f2a", "kiosk-7"),
        ("art/llm/session/booth-1/reset", "+/+/session/+/reset"),
        ("a/+/c", "a/b/c"),
        ("a/#", "a"),
        ("#", "+/+"),
        ("+/delta", "x/delta"),
        ("ünï/🦊", "ünï/+"),
        ("/", "+/+"),
        ("x/error", "$SYS/x"),
        ("a" * 129, "/".join("+" * 250)),
    ]
    return [join((), *pair) for pair in pairs]


TARGET = Target(
    check,
    seeds,
    ("/", "+", "#", "/#", "+/", "$", "art/llm/session/", "/reset", "delta", "event", "error"),
    max_len=1200,
)
