"""Requests over MQTT: payload and properties in, and what is asked or why it is refused out."""

import json
from collections.abc import Iterable

from edge_llm.engine.worker.frames import TO_WORKER, Generate, encode
from edge_llm.errors import InvalidIdError
from edge_llm.mqtt import Publication
from edge_llm.outgoing import Outgoing
from edge_llm.preset import Preset, Presets
from edge_llm.protocol import ChatRequest, Delta, Done, is_json
from edge_llm.service.intake import Intake, Refused, Rules
from edge_llm.service.requests import Asked
from edge_llm.settings import ClientSettings, MqttSettings
from edge_llm.topics import Topics, explain_bad_topic
from tests.fuzz.json_mutation import json_mutator, json_words
from tests.fuzz.source import Source, join
from tests.fuzz.target import Target
from tests.test_malformed import VALID

TOPICS = Topics("llm", "kiosk")
PRESETS = Presets(
    {
        "oracle": Preset(system_prompt="An oracle.", language="de", fallback="The oracle sleeps."),
        "sign": Preset(prompt="Say a word.", max_bytes=32, stream="word", format="text"),
        "long": Preset(parts=True, max_bytes=64, temperature=0.2, choices=("yes", "no")),
    },
    default="oracle",
)
CLIENTS = (ClientSettings(match="esp*", max_bytes=100),)
INTAKE = Intake(TOPICS, MqttSettings(), Rules(PRESETS, (), CLIENTS))
IDS = ("a", "kiosk-7/3f2a", "esp1/42", "ünï/🦊", "ünï")
NUM_HEAD = 6
"""Bytes before the texts: who publishes, and how."""


def check(data: bytes) -> None:
    source = Source(data)
    request_id = source.choice(IDS)
    has_response_topic, has_correlation = source.flag(), source.flag()
    qos, expiry_s = source.number(0, 1), source.byte() or None
    response_topic, correlation, said = source.text(), source.part(), source.text()
    try:
        request_id = TOPICS.request_id(TOPICS.request(said)) if said else request_id
    except InvalidIdError:
        return
    publication = Publication(
        topic=TOPICS.request(request_id),
        payload=source.rest(),
        qos=qos,
        retain=False,
        dup=False,
        packet_id=1,
        expiry_s=expiry_s,
        response_topic=response_topic if has_response_topic else None,
        correlation=correlation if has_correlation else None,
    )
    read = INTAKE.read_request(publication, request_id, may_be_old=False)
    if isinstance(read, Refused):
        _check_refusal(read, publication)
    elif isinstance(read, Asked):
        check_asked(read)


def _check_refusal(refused: Refused, publication: Publication) -> None:
    assert refused.error.message
    _, finals = refused.reply.fail(refused.error)
    for outgoing in finals:
        check_outgoing(outgoing)
        is_object = outgoing.content_type == "application/json"
        assert not is_object or is_json(publication.payload), "a text is not answered in JSON"


def check_asked(asked: Asked) -> None:
    """Check that the worker can read what is asked, and that an answer keeps to its limits."""
    request = asked.request
    assert request.conversation[-1].content.strip() or request.conversation[-1].role == "tool"
    check_frame(request)
    text = "One sentence. Then a ünï🦊 sentence that is longer! " * 3
    limit = request.max_bytes if not request.parts else None
    said = [each for piece in text.split("n") for each in asked.reply.add(Delta(text=piece))]
    last, finals = asked.reply.finish(Done(finish_reason="stop"))
    deltas = [each for each in (*said, *last) if _is_delta(each)]
    for outgoing in (*said, *last, *finals):
        check_outgoing(outgoing)
    final = finals[-1]
    told = final.payload.decode()
    if final.content_type == "application/json":
        told = json.loads(told)["text"]
    assert limit is None or len(told.encode()) <= limit
    if deltas and not request.parts:
        assert "".join(map(_text, deltas)) == told


def check_frame(request: ChatRequest) -> None:
    """Check that a request comes out of the worker's socket as it went in."""
    line = encode(Generate(id=1, request=request))
    assert line.count(b"\n") == 1
    assert encode(TO_WORKER.validate_json(line)) == line


def check_outgoing(outgoing: Outgoing) -> None:
    """Check that a broker takes a message, and that its text is no half of a character."""
    assert explain_bad_topic(outgoing.topic) is None
    outgoing.payload.decode()
    if outgoing.content_type == "application/json":
        json.loads(outgoing.payload)


def _is_delta(outgoing: Outgoing) -> bool:
    return outgoing.topic.endswith("/delta")


def _text(outgoing: Outgoing) -> str:
    text = outgoing.payload.decode()
    return str(json.loads(text)["text"]) if outgoing.content_type == "application/json" else text


def seeds() -> Iterable[bytes]:
    plain = (0,) * NUM_HEAD
    bodies = [{"messages": VALID["messages"], name: value} for name, value in VALID.items()]
    bodies += [VALID, {"prompt": "Hi", "preset": "sign"}, {"preset": "long", "prompt": "Hi"}]
    bodies += [{"prompt": "Hi", "choices": ["a", "b"], "stream": True}, {"node": "x"}, {}]
    bodies += [{"prompt": "Hi", "retain_s": 5}, {"prompt": "Hi", "stream": "token", "parts": True}]
    for body in bodies:
        yield join(plain, "", "", "", json.dumps(body))
    for text in ("Tell me a joke", "", " ", "{", '{"prompt": ', "\ufeff{}", "ünï🦊"):
        yield join(plain, "", "", "", text)
    for topic in ("llm/response/x", "me/reply/1", "elsewhere", "llm/response/+", "$SYS", ""):
        yield join((2, 1, 1, 1, 0, 9), topic, b"\x00\x01", "", '{"prompt": "Hi", "events": true}')
    yield join(plain, "", "", "esp9/delta", "Hi")


TARGET = Target(
    check,
    seeds,
    json_words(*VALID, "prompt", "choices", "node", "retain_s", "sentence", "word", "text"),
    mutate=json_mutator(NUM_HEAD + 3),
)
