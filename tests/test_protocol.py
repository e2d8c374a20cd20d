"""The wire: what is taken, what is refused and in which words, and that nothing gets lost."""

import json
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from edge_llm.engine.worker.frames import Generate, encode
from edge_llm.errors import EdgeLLMError, InvalidIdError, InvalidRequestError, error_from_code
from edge_llm.protocol import (
    MAX_PAYLOAD_BYTES,
    ChatRequest,
    Delta,
    DeltaPayload,
    Done,
    ErrorBody,
    Event,
    FunctionCall,
    FunctionDefinition,
    JsonSchema,
    JsonSchemaFormat,
    Message,
    ModelInfo,
    MqttRequest,
    NamedFunction,
    NamedTool,
    NodeInfo,
    Response,
    Started,
    Timing,
    Tool,
    ToolCall,
    Usage,
    parse_mqtt_request,
    validate,
)
from edge_llm.protocol.parse import LATER_FIELDS
from edge_llm.topics import MAX_ID_CHARS, RESERVED_LEVELS, Topics

CALL = ToolCall(id="call_1", function=FunctionCall(name="look", arguments='{"far": true}'))
TOPICS = Topics("llm", "stage")


def body(**fields: Any) -> bytes:
    return json.dumps({"prompt": "Hi"} | fields).encode()


def turns(*contents: Any, **fields: Any) -> bytes:
    messages = [{"role": "user", "content": content} for content in contents]
    return json.dumps({"messages": messages} | fields).encode()


def refused(payload: bytes) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as error:
        parse_mqtt_request(payload)
    return error.value


@pytest.mark.parametrize("payload", [b"", b" \n\t", b"{}", b'{"prompt": null}'])
def test_a_request_may_leave_the_prompt_to_its_preset(payload: bytes) -> None:
    request = parse_mqtt_request(payload)
    assert (request.prompt, request.messages) == (None, None)


@pytest.mark.parametrize("text", ["Hi", " Hi\n", "[1, 2]", '"{}"', "12", "null", "Größe 🦊", "a{}"])
def test_what_is_not_an_object_is_the_prompt(text: str) -> None:
    request = parse_mqtt_request(text.encode())
    assert (request.prompt, request.format, request.stream) == (text, None, False)
    assert request.conversation == (Message(role="user", content=text),)


def test_an_object_is_json() -> None:
    request = parse_mqtt_request(b' \n{"prompt": "Hi", "max_tokens": 5}')
    assert (request.prompt, request.max_tokens, request.format) == ("Hi", 5, None)


@pytest.mark.parametrize(
    ("payload", "code", "param"),
    [
        (b"\xff\xfe", "invalid_utf8", None),
        (b'{"prompt": "\xe4"}', "invalid_utf8", None),
        ("Grüße".encode("latin-1"), "invalid_utf8", None),
        (b"{", "invalid_json", None),
        (b"{ Hi there }", "invalid_json", None),
        (b'{"prompt": "Hi"} and more', "invalid_json", None),
        (b"{'prompt': 'Hi'}", "invalid_json", None),
        (b'{"prompt": "Hi",}', "invalid_json", None),
        (b'{"prompt": "\\ud83e"}', "invalid_json", None),
        (b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}", "invalid_json", None),
        (body(messages=[{"role": "user", "content": "Hi"}]), "invalid_request", None),
        (body(prompt=""), "invalid_request", "prompt"),
        (body(prompt=" \n"), "invalid_request", "prompt"),
        (body(prompt=5), "invalid_request", "prompt"),
        (body(prompt=["Hi"]), "invalid_request", "prompt"),
        (turns(), "invalid_request", "messages"),
        (turns(""), "invalid_request", "messages"),
        (turns("Hi", " "), "invalid_request", "messages"),
        (turns(None), "invalid_request", "messages.0.content"),
        (turns("Hi", [{"type": "text", "text": "x"}]), "invalid_request", "messages.1.content"),
        (b'{"messages": "Hi"}', "invalid_request", "messages"),
        (b'{"messages": [{"content": "x"}]}', "invalid_request", "messages.0.role"),
        (
            b'{"messages": [{"role": "narrator", "content": "x"}]}',
            "invalid_request",
            "messages.0.role",
        ),
        (
            b'{"messages": [{"role": "user", "content": "x", "name": "y"}]}',
            "unknown_field",
            "messages.0.name",
        ),
        (body(max_token=5), "unknown_field", "max_token"),
        (body(Prompt="x"), "unknown_field", "Prompt"),
        (b'{"promt": "Hi"}', "unknown_field", "promt"),
        (body(max_tokens=0), "invalid_request", "max_tokens"),
        (body(max_tokens="5"), "invalid_request", "max_tokens"),
        (body(max_tokens=5.5), "invalid_request", "max_tokens"),
        (body(max_tokens=True), "invalid_request", "max_tokens"),
        (body(max_tokens=10**30), "invalid_request", "max_tokens"),
        (body(temperature=-0.1), "invalid_request", "temperature"),
        (body(temperature=2.1), "invalid_request", "temperature"),
        (body(temperature="0.5"), "invalid_request", "temperature"),
        (b'{"prompt": "Hi", "temperature": NaN}', "invalid_request", "temperature"),
        (b'{"prompt": "Hi", "temperature": Infinity}', "invalid_request", "temperature"),
        (b'{"prompt": "Hi", "temperature": 1e999}', "invalid_request", "temperature"),
        (body(top_p=0), "invalid_request", "top_p"),
        (body(top_p=1.01), "invalid_request", "top_p"),
        (body(top_k=-1), "invalid_request", "top_k"),
        (body(min_p=-1), "invalid_request", "min_p"),
        (body(repeat_penalty=0), "invalid_request", "repeat_penalty"),
        (body(repeat_last_n=-2), "invalid_request", "repeat_last_n"),
        (body(frequency_penalty=3), "invalid_request", "frequency_penalty"),
        (body(presence_penalty=-3), "invalid_request", "presence_penalty"),
        (body(logit_bias={"-1": 1}), "invalid_request", "logit_bias.-1"),
        (body(logit_bias={"x": 1}), "invalid_request", "logit_bias.x"),
        (body(logit_bias={"5": 101}), "invalid_request", "logit_bias.5"),
        (body(logit_bias=[5]), "invalid_request", "logit_bias"),
        (body(seed=2**64), "invalid_request", "seed"),
        (body(seed=1.5), "invalid_request", "seed"),
        (body(stop=""), "invalid_request", "stop.0"),
        (body(stop=["a", 5]), "invalid_request", "stop.1"),
        (body(stop=list("abcde")), "invalid_request", "stop"),
        (body(stop=5), "invalid_request", "stop"),
        (body(priority=10), "invalid_request", "priority"),
        (body(priority=None), "invalid_request", "priority"),
        (body(ttl_s=0), "invalid_request", "ttl_s"),
        (body(ttl_s=100_000), "invalid_request", "ttl_s"),
        (body(enable_thinking=1), "invalid_request", "enable_thinking"),
        (body(model=5), "invalid_request", "model"),
        (body(stream="words"), "invalid_request", "stream"),
        (body(stream=None), "invalid_request", "stream"),
        (body(stream=1), "invalid_request", "stream"),
        (body(format="xml"), "invalid_request", "format"),
        (body(max_bytes=15), "invalid_request", "max_bytes"),
        (body(max_bytes=MAX_PAYLOAD_BYTES + 1), "invalid_request", "max_bytes"),
        (b"x" * (MAX_PAYLOAD_BYTES + 1), "payload_too_large", None),
        (body(prompt="x" * 1_000_000), "payload_too_large", None),
        (b"\xff" * 1_000_000, "payload_too_large", None),
    ],
    ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else None,
)
def test_bad_requests_say_what_is_wrong(payload: bytes, code: str, param: str | None) -> None:
    error = refused(payload)
    assert (error.code, error.param) == (code, param)
    assert error.message
    assert len(error.message) < 300
    assert not error.retryable
    if param:
        assert param in error.message or param.split(".")[0].rstrip("s") in error.message


@pytest.mark.parametrize("name", sorted(LATER_FIELDS))
def test_fields_of_later_versions_are_refused_as_such(name: str) -> None:
    error = refused(body(**{name: 1}))
    assert (error.code, error.param) == ("unsupported_field", name)
    assert name not in MqttRequest.model_fields


def test_an_unknown_field_is_named_before_all_else() -> None:
    assert refused(body(temperature="hot", topp=1, max_tokens=0)).param == "topp"


def test_the_largest_payload_is_taken() -> None:
    assert parse_mqtt_request(b"x" * MAX_PAYLOAD_BYTES).prompt == "x" * MAX_PAYLOAD_BYTES


@pytest.mark.parametrize(
    ("given", "taken"), [("END", ("END",)), (["a", "b"], ("a", "b")), ([], ()), (None, None)]
)
def test_stop_is_one_string_or_several(given: Any, taken: Any) -> None:
    assert parse_mqtt_request(body(stop=given)).stop == taken


@pytest.mark.parametrize(
    ("given", "taken"), [(True, "token"), (False, False), ("sentence", "sentence")]
)
def test_stream_true_means_token(given: Any, taken: Any) -> None:
    assert parse_mqtt_request(body(stream=given)).stream is taken or taken == "token"
    assert parse_mqtt_request(body(stream=given)).stream == taken


def test_numbers_at_the_edges_are_taken() -> None:
    request = parse_mqtt_request(
        body(
            temperature=2, top_p=1, top_k=0, min_p=0, repeat_last_n=-1, seed=-(2**63),
            priority=9, logit_bias={"0": -100, "5": 2.5}, max_bytes=16, ttl_s=0.001,
        )
    )  # fmt: skip
    assert request.logit_bias == {0: -100.0, 5: 2.5}
    assert (request.seed, request.temperature) == (-(2**63), 2.0)
    assert parse_mqtt_request(body(seed=2**64 - 1)).seed == 2**64 - 1


def test_a_request_that_sets_all_survives_the_wire() -> None:
    request = MqttRequest(
        messages=(
            Message(role="system", content="Be a fox.\u2028"),
            Message(role="user", content='🦊 \u0000 "quotes" \\'),
            Message(role="assistant", tool_calls=(CALL,)),
            Message(role="tool", content="12", tool_call_id="call_1"),
        ),
        model="m",
        max_tokens=5,
        temperature=0.1,
        top_p=0.9,
        top_k=3,
        min_p=0.05,
        repeat_penalty=1.1,
        repeat_last_n=-1,
        frequency_penalty=-1.5,
        presence_penalty=0.5,
        logit_bias={7: -100.0},
        seed=2**63,
        stop=("a", "b"),
        enable_thinking=True,
        priority=0,
        ttl_s=1.5,
        stream="sentence",
        format="text",
        max_bytes=99,
        time_budget_s=3.0,
        preempt=True,
        overflow="drop_oldest",
        preset="oracle",
        session="booth-1",
        node="stage",
        events=True,
        parts=True,
        thinking_budget=0,
        response_format=JsonSchemaFormat(
            type="json_schema", json_schema=JsonSchema(schema={"type": "object"})
        ),
        tools=(Tool(type="function", function=FunctionDefinition(name="look")),),
        tool_choice=NamedTool(type="function", function=NamedFunction(name="look")),
        parallel_tool_calls=False,
        logprobs=True,
        top_logprobs=20,
    )
    assert set(MqttRequest.model_fields) - request.model_fields_set == {"prompt", "choices"}
    assert MqttRequest.model_validate_json(request.model_dump_json()) == request
    assert b'"schema":{' in encode(Generate(id=1, request=request))


@pytest.mark.parametrize(
    "message",
    [
        ChatRequest(prompt="Hi"),
        DeltaPayload(seq=0, text="🦊"),
        ErrorBody(code="queue_full", message="x", param="y", retry_after_s=1.5),
        ModelInfo(id="m", context_len=8, vocab_size=9, quantization="int8"),
        NodeInfo(
            node="n", version="1", boot_id="b", engine="worker", queue_limit=1,
            models=(ModelInfo(id="m", context_len=8, vocab_size=9),),
        ),
        Response(id="a/b", node="n", finish_reason="stop", usage=Usage(), timing=Timing()),
        Response(id="a", node="n", error=ErrorBody(code="internal", message="x")),
    ],
    ids=lambda message: type(message).__name__,
)  # fmt: skip
@pytest.mark.parametrize("exclude_none", [True, False])
def test_messages_survive_the_wire(message: BaseModel, exclude_none: bool) -> None:
    text = message.model_dump_json(exclude_none=exclude_none)
    assert type(message).model_validate_json(text) == message


@pytest.mark.parametrize(
    "event",
    [
        Started(),
        Delta(text="a", reasoning="b", token_ids=(1, 2)),
        Done(finish_reason="length", usage=Usage(prompt_tokens=1), timing=Timing(ttft_s=0.5)),
    ],
)
def test_events_are_told_apart(event: Event) -> None:
    events: TypeAdapter[Event] = TypeAdapter(Event)
    assert events.validate_json(events.dump_json(event)) == event


def test_requests_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_mqtt_request(b"Hi").prompt = "other"  # type: ignore[misc]


def test_json_that_is_no_object_is_refused_where_one_is_needed() -> None:
    for payload in ("[]", "5", '"x"', "null"):
        with pytest.raises(InvalidRequestError) as error:
            validate(ChatRequest, payload)
        assert error.value.code == "invalid_json"


ERRORS = list(EdgeLLMError.tree())


def test_codes_are_different() -> None:
    codes = [error.code for error in ERRORS]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_every_error_survives_the_wire(error: type[EdgeLLMError]) -> None:
    sent = error("what is wrong", param="prompt", retry_after_s=2.5)
    text = ErrorBody.from_error(sent).model_dump_json()
    received = ErrorBody.model_validate_json(text).to_error()
    assert type(received) is error
    assert vars(received) == vars(sent)
    assert str(received) == "what is wrong"
    assert (received.code, received.retryable) == (error.code, error.retryable)


def test_a_newer_peers_code_is_kept() -> None:
    error = error_from_code("too_hot", "wait", retry_after_s=60)
    assert type(error) is EdgeLLMError
    assert (error.code, error.retry_after_s) == ("too_hot", 60)
    assert EdgeLLMError.code == "internal"


@pytest.mark.parametrize("request_id", ["button7", "esp1/42", "delta", "a/b c", "Größe", "a" * 128])
def test_ids_of_one_or_two_levels_are_taken(request_id: str) -> None:
    assert TOPICS.request_id(TOPICS.request(request_id)) == request_id
    assert TOPICS.request_id(TOPICS.cancel(request_id)) == request_id
    assert TOPICS.is_cancel(TOPICS.cancel(request_id))
    assert not TOPICS.is_cancel(TOPICS.request(request_id))


@pytest.mark.parametrize(
    "request_id",
    [
        "",
        "a/",
        "/b",
        "a\u0007",
        "a\nb",
        "a\u200fb",
        "x" * (MAX_ID_CHARS + 1),
        "a/" + "x" * MAX_ID_CHARS,
        *(f"a/{level}" for level in sorted(RESERVED_LEVELS)),
    ],
)
def test_ids_that_could_not_be_answered_are_refused(request_id: str) -> None:
    with pytest.raises(InvalidIdError):
        TOPICS.request_id(TOPICS.request(request_id))


def test_a_prefix_may_have_levels() -> None:
    topics = Topics("house/llm", "stage")
    assert topics.request_id("house/llm/request/esp1/42") == "esp1/42"
    assert topics.response("esp1/42", "delta") == "house/llm/response/esp1/42/delta"
    assert topics.status == "house/llm/node/stage/status"


def test_a_schema_has_one_name_on_the_wire() -> None:
    form = {"type": "json_schema", "json_schema": {"schema_": {"type": "object"}}}
    with pytest.raises(InvalidRequestError) as caught:
        parse_mqtt_request(body(response_format=form))
    assert caught.value.code == "unknown_field"
