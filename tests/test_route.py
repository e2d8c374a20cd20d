"""Routes: templates over untrusted messages, and answers that would come back as questions."""

import pytest
from pydantic import ValidationError

from edge_llm.errors import InvalidEncodingError, InvalidRequestError, PayloadTooLargeError
from edge_llm.protocol import MAX_PAYLOAD_BYTES
from edge_llm.route import Pressed, Route, find_conflict
from edge_llm.topics import Topics, explain_bad_filter, explain_bad_topic, overlaps

TOPICS = Topics("llm", "stage")


def press(topic: str = "house/hall/button", payload: bytes = b"", **route: object) -> Pressed:
    return Route.model_validate({"topic": "house/+/button", **route}).press(topic, payload, TOPICS)


def test_a_route_without_templates_leaves_the_prompt_to_its_preset() -> None:
    assert press(name="hall") == Pressed(None, "llm/response/hall", None, None)


def test_templates_see_the_topic_and_the_payload() -> None:
    pressed = press(
        payload=b'{"name": "Ada", "age": 36, "likes": ["tea"]}',
        prompt="Greet {{ json.name }} ({{ json['age'] + 1 }}), who likes {{ json.likes[0] }}, "
        "in the {{ levels[1] }} ({{ topic }}; {{ payload|length }}).",
        respond_to="{{ levels[0] }}/{{ levels[1] }}/speaker",
        deltas_to="{{ levels[0] }}/{{ levels[1] }}/subtitles",
        session="booth-{{ levels[1] }}",
    )
    assert pressed == Pressed(
        "Greet Ada (37), who likes tea, in the hall (house/hall/button; 44).",
        "house/hall/speaker",
        "house/hall/subtitles",
        "booth-hall",
    )


def test_a_payload_that_is_not_json_is_text() -> None:
    assert press(payload=b"Gr\xc3\xbc\xc3\x9fe", prompt="{{ payload }}!").prompt == "Grüße!"
    assert press(payload=b"x", prompt="{{ json is none }}").prompt == "True"
    assert press(payload=b"[" * 100_000, prompt="{{ json is none }}").prompt == "True"


@pytest.mark.parametrize(
    ("route", "payload", "message"),
    [
        ({"prompt": "{{ json.name }}"}, b"{}", "no attribute 'name'"),
        ({"prompt": "{{ json.name }}"}, b"pressed", "no attribute 'name'"),
        ({"prompt": "{{ 1 / json }}"}, b"0", "division by zero"),
        ({"prompt": "{{ payload }}"}, b"  ", "the prompt is empty"),
        ({"respond_to": "a/{{ payload }}"}, b"#", "has a wildcard"),
        ({"respond_to": "{{ payload }}"}, b"", "the topic is empty"),
        ({"respond_to": "{{ payload }}"}, b"$SYS/x", "the broker's own"),
        ({"respond_to": "a/{{ payload }}"}, b"\x00", "control characters"),
        ({"respond_to": "a/{{ payload }}"}, b"x" * 600, "more than 512 bytes"),
        ({"respond_to": "a/{{ payload }}"}, b"b/c", "may only fill one level"),
        ({"deltas_to": "a/{{ payload }}"}, b"+", "has a wildcard"),
        ({"session": "{{ payload }}"}, b"a/b", "can't name a session"),
    ],
)
def test_a_message_that_does_not_fit_is_one_clear_error(
    route: dict[str, str], payload: bytes, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match="route 'hall': ") as caught:
        press(payload=payload, name="hall", **route)
    assert message in caught.value.message


def test_bytes_that_are_not_text_and_messages_that_are_too_long_are_refused() -> None:
    with pytest.raises(InvalidEncodingError):
        press(payload=b"\xff")
    with pytest.raises(PayloadTooLargeError):
        press(payload=b"x" * (MAX_PAYLOAD_BYTES + 1))


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ payload.__init__.__globals__ }}",
        "{{ levels.append(1) }}",
        "{% for i in range(10000000) %}x{% endfor %}",
    ],
)
def test_templates_stay_in_their_sandbox(template: str) -> None:
    with pytest.raises(InvalidRequestError, match="prompt: "):
        press(prompt=template)


def test_a_message_brings_no_template_of_its_own() -> None:
    assert press(payload=b"{{ 7 * 7 }}", prompt="{{ payload }}").prompt == "{{ 7 * 7 }}"


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ({"topic": "a/#/b"}, "'#' may only stand alone, as the last level"),
        ({"topic": "a/b+"}, "'\\+' may only stand alone"),
        ({"topic": ""}, "empty"),
        ({"topic": "a", "prompt": "{{ x"}, "not a template"),
        ({"topic": "a", "stream": "word"}, "'stream' needs 'deltas_to'"),
        ({"topic": "a", "while_busy": "panic"}, "while_busy"),
        ({"topic": "a", "name": "a/b"}, "letters, digits"),
        ({"topic": "a", "colour": "red"}, "colour"),
    ],
)
def test_a_wrong_route_is_refused_with_the_reason(route: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Route.model_validate(route)


def routes(*specs: dict[str, str]) -> list[Route]:
    return [Route.model_validate(spec) for spec in specs]


@pytest.mark.parametrize(
    ("specs", "named"),
    [
        ([{"topic": "a/b", "respond_to": "a/b", "name": "echo"}], "'echo' -> 'echo'"),
        ([{"topic": "a/#", "respond_to": "a/b/c", "name": "echo"}], "'echo' -> 'echo'"),
        ([{"topic": "#", "respond_to": "speaker", "name": "all"}], "the node itself answers"),
        ([{"topic": "a/+", "respond_to": "a/{{ payload }}", "name": "t"}], "'t' -> 't'"),
        ([{"topic": "x/y", "respond_to": "{{ payload }}/y", "name": "t"}], "'t' -> 't'"),
        ([{"topic": "x/y", "respond_to": "x{{ a / b }}/y", "name": "t"}], "'t' -> 't'"),
        (
            [{"topic": "x/y", "respond_to": "x/{% if json %}y{% endif %}", "name": "t"}],
            "'t' -> 't'",
        ),
        ([{"topic": "a/+", "respond_to": "b", "deltas_to": "a/d", "name": "d"}], "'d' -> 'd'"),
        ([{"topic": "a/+/error", "respond_to": "a/b", "name": "e"}], "'e' -> 'e'"),
        ([{"topic": "llm/response/#", "name": "r"}], "'r' -> 'r'"),
        (
            [
                {"topic": "a", "respond_to": "b", "name": "one"},
                {"topic": "b", "respond_to": "c", "name": "two"},
                {"topic": "c", "respond_to": "a", "name": "three"},
            ],
            "'one' -> 'two' -> 'three' -> 'one'",
        ),
        ([{"topic": "llm/request/x", "name": "r"}], "the node itself answers"),
        ([{"topic": "llm/node/+/activity", "name": "r"}], "what the node says of itself"),
        ([{"topic": "a/b"}, {"topic": "a-b"}], "there are two with this name"),
    ],
)
def test_routes_that_would_answer_themselves_are_refused_by_name(
    specs: list[dict[str, str]], named: str
) -> None:
    conflict = find_conflict(routes(*specs), TOPICS)
    assert conflict is not None
    # A loop may be told from any of its routes.
    rotated = named.split(" -> ")
    assert named in conflict or all(name in conflict for name in rotated)


def test_a_reply_beside_the_topic_is_no_loop() -> None:
    beside = routes(
        {"topic": "house/+/button", "respond_to": "house/{{ levels[1] }}/speaker", "name": "b"}
    )
    assert find_conflict(beside, TOPICS) is None


def test_routes_in_a_row_are_no_loop() -> None:
    chain = routes(
        {"topic": "visitor/+", "respond_to": "poet", "name": "greeter"},
        {"topic": "poet", "respond_to": "critic", "name": "poet"},
        {"topic": "critic", "respond_to": "speaker", "name": "critic"},
    )
    assert find_conflict(chain, TOPICS) is None


def test_fifty_routes_that_lead_to_each_other_are_checked_at_once() -> None:
    chain = routes(
        *(
            {"topic": f"step/{n}/+", "respond_to": f"step/{n + 1}/x", "name": f"r{n}"}
            for n in range(50)
        )
    )
    assert find_conflict(chain, TOPICS) is None


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a/#", "a", True),
        ("a/+/c", "a/b/+", True),
        ("a/b", "a/b/c", False),
        ("#", "x/y", True),
        ("a/+", "a/b/c", False),
        ("a/b/#", "a/+", True),
        ("+/x", "a/x", True),
        ("a/#", "b/#", False),
        ("+", "a/b", False),
        ("a/+/#", "a", False),
    ],
)
def test_filters_overlap_if_a_topic_matches_both(
    first: str, second: str, *, expected: bool
) -> None:
    assert overlaps(first, second) is expected
    assert overlaps(second, first) is expected


def test_topics_and_filters_are_told_from_bad_ones() -> None:
    assert explain_bad_topic("a/b c/ü") is None
    assert explain_bad_filter("a/+/#") is None
    assert explain_bad_filter("+") is None
    assert explain_bad_filter("a/b#") is not None


def test_a_route_without_a_name_is_called_by_its_topic() -> None:
    assert Route(topic="house/+/button").id == "house-button"
    assert Route(topic="+").id == "route"
