"""Messages of buttons and sensors, filled into the templates of routes."""

import json
from collections.abc import Iterable

from edge_llm.errors import InvalidRequestError
from edge_llm.mqtt import Publication
from edge_llm.preset import Preset, Presets
from edge_llm.route import Route
from edge_llm.service.intake import Intake, Refused, Rules
from edge_llm.settings import MqttSettings
from edge_llm.topics import Topics, explain_bad_filter, explain_bad_topic, overlaps
from tests.fuzz.json_mutation import json_mutator, json_words
from tests.fuzz.source import Source, join
from tests.fuzz.target import Target
from tests.fuzz.targets.requests import check_asked, check_outgoing

TOPICS = Topics("llm", "kiosk")
ROUTES = (
    Route(topic="button/+", preset="oracle"),
    Route(topic="sensor/#", prompt="It is {{ json.temperature }} degrees.", format="json"),
    Route(
        topic="badge/+/seen",
        prompt="Greet visitor {{ json.name }} at {{ levels[1] }}.",
        respond_to="show/{{ levels[1] }}/{{ json.name }}",
        deltas_to="show/{{ payload }}/words",
        session="{{ json.name }}",
        stream="word",
    ),
    Route(
        topic="list/+",
        prompt="{% for item in json.rows %}{{ item | upper }}, {% endfor %}",
        session="{{ json.s }}",
    ),
    Route(
        topic="sum/+",
        prompt="{{ 100 / json.n | float }} {{ json.s[:3] }} {{ topic | length }} {{ json.n // 2 }}",
        respond_to="sum/{{ '%s' % json.s }}",
    ),
    Route(topic="raw/+", prompt="{{ payload }}", respond_to="{{ topic }}/said", retain=True),
)
PRESETS = Presets(
    {"oracle": Preset(system_prompt="An oracle.", prompt="Speak.", fallback="…", max_bytes=64)}
)
INTAKE = Intake(TOPICS, MqttSettings(), Rules(PRESETS, ROUTES, ()))


def check(data: bytes) -> None:
    source = Source(data)
    route = source.choice(ROUTES)
    topic = source.text()
    if explain_bad_topic(topic):
        return
    payload = source.rest()
    publication = Publication(topic, payload, qos=1, retain=False, dup=False, packet_id=1)
    read = INTAKE.read_press(publication, route)
    if isinstance(read, Refused):
        assert isinstance(read.error, InvalidRequestError)
        for outgoing in read.reply.fail(read.error).finals:
            check_outgoing(outgoing)
        return
    check_asked(read)
    for output in route.outputs(TOPICS):
        assert explain_bad_filter(output) is None
    pressed = route.press(topic, payload, TOPICS)
    outputs = list(route.outputs(TOPICS))
    # What is checked for loops before the start must be all that can be published later.
    for said in (pressed.respond_to, pressed.deltas_to):
        assert said is None or any(overlaps(output, said) for output in outputs)


def seeds() -> Iterable[bytes]:
    badge = {"name": "Ada", "temperature": 21.5, "rows": ["a", "b"], "n": 4, "s": "x"}
    for index, topic in enumerate(
        ("button/1", "sensor/a/b", "badge/door/seen", "list/1", "sum/1", "raw/x")
    ):
        yield join((index,), topic, json.dumps(badge))
        yield join((index,), topic, "pressed")
        yield join((index,), topic, "")
        yield join((index,), f"{topic}🦊", json.dumps({**badge, "name": "a/b", "s": "\n"}))


TARGET = Target(
    check,
    seeds,
    json_words("name", "temperature", "rows", "n", "s"),
    mutate=json_mutator(10),
)
