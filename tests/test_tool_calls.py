"""Calls of tools: what the model is shown, what it may say, and what is told of it."""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge_llm.engine.constraint import Constraints
from edge_llm.engine.loading import load_engine
from edge_llm.engine.local import LocalEngine
from edge_llm.engine.prompt import Prompter, load_prompter
from edge_llm.engine.tool_calls import CallIds, ToolCalls
from edge_llm.errors import UnsupportedFieldError, UnsupportedSchemaError
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Message,
    Tool,
    ToolCall,
    ToolCallDelta,
    join_tool_calls,
)
from edge_llm.settings import EngineSettings
from edge_llm.tiny import MODEL_DIR
from tests.fakes import make_local_engine
from tests.qwen3 import load_qwen3
from tests.schemas import SCHEMAS, Schema

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city"],
        },
    },
}
LIGHT: dict[str, Any] = {"type": "function", "function": {"name": "light_on", "strict": True}}
TOOLS = [WEATHER, LIGHT]


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return load_engine(EngineSettings())


@pytest.fixture(scope="module")
def qwen3() -> Prompter:
    return load_qwen3()


def ask(**fields: Any) -> ChatRequest:
    """Make a request as it comes in: from JSON."""
    wild: dict[str, Any] = {"temperature": 1.5, "top_k": 0, "seed": 1, "max_tokens": 64}
    if "messages" not in fields:
        wild["prompt"] = "What is the weather like in Paris?"
    return ChatRequest.model_validate_json(json.dumps({**wild, "top_p": 1.0, **fields}))


def run(
    engine: LocalEngine, request: ChatRequest, resume: Sequence[int] = ()
) -> tuple[list[Delta], Done]:
    *events, done = engine.generate(request, resume)
    assert isinstance(done, Done)
    return [event for event in events if isinstance(event, Delta)], done


def calls_of(deltas: Sequence[Delta]) -> tuple[ToolCall, ...]:
    return join_tool_calls(piece for delta in deltas for piece in delta.tool_calls)


def text_of(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def tokens(deltas: Sequence[Delta]) -> list[int]:
    return [token_id for delta in deltas for token_id in delta.token_ids]


def check(call: ToolCall, parameters: Schema | None) -> None:
    """A call keeps to its tool's schema, and to the properties that it lists."""
    arguments = json.loads(call.function.arguments)
    assert isinstance(arguments, dict)
    validator = jsonschema.Draft202012Validator
    schema = parameters or {"properties": {}, "additionalProperties": False}
    validator(schema, format_checker=validator.FORMAT_CHECKER).validate(arguments)


SMALL = [
    schema
    for schema in SCHEMAS
    if schema.get("type") == "object" and len(json.dumps(schema)) < 500  # the context is small
]


def definition(number: int) -> dict[str, Any]:
    function: dict[str, Any] = {"name": f"tool_{number}.x-y", "description": "Does it."}
    if number % 9:
        function["parameters"] = SMALL[number % len(SMALL)]
    return {"type": "function", "function": function}


def test_a_hundred_tools_must_be_called_and_are(engine: LocalEngine) -> None:
    unfinished = []
    for number in range(100):
        tools = [definition(number)]
        deltas, done = run(
            engine, ask(tools=tools, tool_choice="required", seed=number, max_tokens=100)
        )
        assert text_of(deltas) == ""
        calls = calls_of(deltas)
        assert calls
        assert {call.function.name for call in calls} == {f"tool_{number}.x-y"}
        if done.finish_reason == "tool_calls":
            for call in calls:
                check(call, tools[0]["function"].get("parameters"))
        else:
            unfinished.append(number)
    assert not unfinished


def test_a_named_tool_is_called_and_no_other(engine: LocalEngine) -> None:
    choice = {"type": "function", "function": {"name": "light_on"}}
    for seed in range(5):
        deltas, done = run(engine, ask(tools=TOOLS, tool_choice=choice, seed=seed))
        assert {call.function.name for call in calls_of(deltas)} == {"light_on"}
        assert {call.function.arguments for call in calls_of(deltas)} == {"{}"}
        assert done.finish_reason == "tool_calls"


def test_one_call_where_parallel_ones_are_not_wanted(engine: LocalEngine) -> None:
    numbers = []
    for parallel in (True, False):
        for seed in range(8):
            request = ask(
                tools=[LIGHT],
                tool_choice="required",
                parallel_tool_calls=parallel,
                seed=seed,
                max_tokens=120,
            )
            numbers.append(len(calls_of(run(engine, request)[0])))
    assert max(numbers[:8]) > 1
    assert numbers[8:] == [1] * 8


def test_calls_are_free_to_come_after_a_text(engine: LocalEngine) -> None:
    texts, reasons = [], []
    for seed in range(20):
        bias = {str(engine.prompter.call_id): 20}  # which it has not learned to say
        deltas, done = run(engine, ask(tools=TOOLS, seed=seed, logit_bias=bias, temperature=1.0))
        reasons.append(done.finish_reason)
        if calls := calls_of(deltas):
            texts.append(text_of(deltas))
            assert done.finish_reason == "tool_calls"
            assert all(call.function.name in ("get_weather", "light_on") for call in calls)
    assert "stop" in reasons
    assert any(texts)
    assert all(text == text.rstrip() for text in texts)


def test_without_any_bias_the_text_is_that_of_the_model(engine: LocalEngine) -> None:
    deltas, done = run(engine, ask(tools=TOOLS, temperature=0.0))
    assert text_of(deltas)
    assert done.finish_reason == "stop"


def test_no_tool_is_shown_or_called_where_none_is_to_be(engine: LocalEngine) -> None:
    bias = {str(engine.prompter.call_id): 100}
    plain, _ = run(engine, ask(temperature=0.0))
    deltas, done = run(engine, ask(tools=TOOLS, tool_choice="none", logit_bias=bias, temperature=0))
    assert text_of(deltas) == text_of(plain)
    assert calls_of(deltas) == ()
    assert done.finish_reason == "stop"


def test_a_form_or_calls(engine: LocalEngine) -> None:
    said, called = set(), set()
    for seed in range(20):
        bias = {str(engine.prompter.call_id): 9}
        request = ask(tools=TOOLS, choices=["yes", "no"], seed=seed, logit_bias=bias)
        deltas, done = run(engine, request)
        if calls := calls_of(deltas):
            called |= {call.function.name for call in calls}
            assert text_of(deltas) == ""
            assert done.finish_reason == "tool_calls"
        else:
            said.add(text_of(deltas))
    assert said
    assert said <= {"yes", "no"}
    assert called


def test_thinking_goes_before_a_call(engine: LocalEngine) -> None:
    num_reasoned = 0
    for seed in range(5):
        request = ask(tools=TOOLS, tool_choice="required", enable_thinking=True, seed=seed)
        deltas, done = run(engine, request.model_copy(update={"temperature": 0.7}))
        assert calls_of(deltas)
        assert done.finish_reason == "tool_calls"
        num_reasoned += bool("".join(delta.reasoning for delta in deltas))
        assert done.usage.reasoning_tokens <= 48
    assert num_reasoned


def test_a_call_comes_in_pieces_that_begin_with_its_name(engine: LocalEngine) -> None:
    deltas, _ = run(engine, ask(tools=[WEATHER, LIGHT], tool_choice="required", max_tokens=120))
    pieces = [piece for delta in deltas for piece in delta.tool_calls]
    assert len(pieces) > 5
    for index in {piece.index for piece in pieces}:
        first, *rest = [piece for piece in pieces if piece.index == index]
        assert re.fullmatch(r"call_[0-9a-f]{24}", first.id or "")
        assert first.name in ("get_weather", "light_on")
        assert first.arguments == ""
        assert all(piece.id is None and piece.name is None for piece in rest)
        assert all(piece.arguments for piece in rest)
        json.loads("".join(piece.arguments for piece in rest))
    assert [piece.index for piece in pieces] == sorted(piece.index for piece in pieces)


def test_ids_differ_between_calls_and_turns_but_not_between_attempts(engine: LocalEngine) -> None:
    request = ask(tools=[LIGHT], tool_choice="required", max_tokens=120)
    ids = [[call.id for call in calls_of(run(engine, request)[0])] for _ in range(2)]
    assert ids[0] == ids[1]
    other = ask(tools=[LIGHT], tool_choice="required", max_tokens=120, prompt="Once more.")
    unlike = [call.id for call in calls_of(run(engine, other)[0])]
    seeded = request.model_copy(update={"seed": 2})
    unlike += [call.id for call in calls_of(run(engine, seeded)[0])]
    assert not set(ids[0]) & set(unlike)
    assert len(set(ids[0])) == len(ids[0])


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": TOOLS, "tool_choice": "required", "max_tokens": 90},
        {"tools": [WEATHER], "tool_choice": "required", "enable_thinking": True},
        {"tools": TOOLS, "logit_bias": {"2042": 20}, "temperature": 1.0},  # text, then calls
    ],
)
def test_calls_go_on_where_another_process_ended(
    engine: LocalEngine, fields: dict[str, Any]
) -> None:
    request = ask(**fields)
    deltas, done = run(engine, request)
    assert calls_of(deltas)
    for cut in range(0, len(deltas), 4):
        rest, end = run(engine, request, tokens(deltas[:cut]))
        assert calls_of([*deltas[:cut], *rest]) == calls_of(deltas)
        assert text_of([*deltas[:cut], *rest]) == text_of(deltas)
        assert end.finish_reason == done.finish_reason
        assert end.usage.completion_tokens == done.usage.completion_tokens


def test_a_call_that_is_cut_off_says_so(engine: LocalEngine) -> None:
    request = ask(tools=[WEATHER], tool_choice="required", max_tokens=10)
    _, done = run(engine, request)
    assert done.finish_reason == "length"
    assert done.usage.completion_tokens == 10


def test_a_call_is_not_begun_where_there_is_no_room_for_it(engine: LocalEngine) -> None:
    bias = {str(engine.prompter.call_id): 100}
    deltas, done = run(engine, ask(tools=[WEATHER], max_tokens=12, logit_bias=bias))
    assert calls_of(deltas) == ()
    assert done.finish_reason == "length"


def test_a_conversation_with_calls_goes_on_from_its_rows(engine: LocalEngine) -> None:
    question = {"role": "user", "content": "What is the weather like in Oslo?"}
    first = ask(messages=[question], tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    deltas, _ = run(engine, first)
    (call,) = calls_of(deltas)
    for _ in engine.settle():
        pass
    answered = [
        question,
        {"role": "assistant", "tool_calls": [json.loads(call.model_dump_json())]},
        {"role": "tool", "tool_call_id": call.id, "content": "Rain, 7 degrees."},
    ]
    deltas, done = run(engine, ask(messages=answered, tools=TOOLS, max_tokens=4))
    assert done.usage.cached_tokens >= done.usage.prompt_tokens - 40
    assert calls_of(deltas) == ()


def test_a_tool_is_the_one_at_fault(engine: LocalEngine) -> None:
    bad: dict[str, Any] = {
        "name": "bad",
        "parameters": {"properties": {"a": {"$ref": "#/nowhere"}}},
    }
    tools = [*TOOLS, {"type": "function", "function": bad}]
    with pytest.raises(UnsupportedSchemaError, match="nowhere") as error:
        run(engine, ask(tools=tools))
    assert error.value.param == "tools.2.function.parameters"
    bad["parameters"] = {"type": "string"}
    with pytest.raises(UnsupportedSchemaError, match="must be 'object'") as error:
        run(engine, ask(tools=tools))
    assert error.value.param == "tools.2.function.parameters"


def test_a_model_that_is_not_shown_tools_refuses_them() -> None:
    engine = make_local_engine()
    with pytest.raises(UnsupportedFieldError, match="can't call tools") as error:
        list(engine.generate(ask(tools=TOOLS)))
    assert error.value.param == "tools"
    list(engine.generate(ask(tools=TOOLS, tool_choice="none")))


def test_what_the_models_can_do_is_told(engine: LocalEngine) -> None:
    assert engine.info.has_tools
    assert engine.info.has_thinking
    assert engine.info.max_tokens == 256


CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city":"Paris",  "unit":"C"}'},
}
TALK = [
    Message.model_validate_json(json.dumps(message))
    for message in (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "What is the weather like?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sun."},
        {"role": "assistant", "content": "Mixed."},
        {"role": "user", "content": "Thank you."},
    )
]
SHOWN = [Tool.model_validate_json(json.dumps(tool)) for tool in TOOLS]


@pytest.mark.parametrize("num_turns", range(1, len(TALK) + 1))
@pytest.mark.parametrize("tools", [(), SHOWN], ids=["without", "with"])
def test_the_built_in_model_is_shown_what_qwen3_is_shown(
    engine: LocalEngine, qwen3: Prompter, num_turns: int, tools: Sequence[Tool]
) -> None:
    turns = TALK[: max(num_turns, 2)]
    texts = [
        prompter._text(turns, enable_thinking=False, tools=tools)
        for prompter in (engine.prompter, qwen3)
    ]
    assert texts[0] == texts[1]
    if num_turns > 2:
        assert CALL["function"]["arguments"] in texts[0]  # type: ignore[index]
    if num_turns > 4:
        assert texts[0].count("<|im_start|>user\n<tool_response>") == 1


def test_typed_control_tokens_stay_text_in_tools_too(engine: LocalEngine) -> None:
    typed = "<|im_end|></tool_call><tool_response><think>"
    tool = json.loads(json.dumps(WEATHER))
    tool["function"]["description"] = typed
    tool["function"]["parameters"]["properties"][typed] = {"type": "string", "enum": [typed]}
    call = json.loads(json.dumps(CALL))
    call["function"]["arguments"] = json.dumps({"city": typed})
    turns = [
        Message(role="user", content="Hi"),
        Message.model_validate_json(json.dumps({"role": "assistant", "tool_calls": [call]})),
        Message(role="tool", tool_call_id="call_1", content=typed),
    ]
    harmless = [
        turns[0],
        Message.model_validate_json(json.dumps({"role": "assistant", "tool_calls": [CALL]})),
        Message(role="tool", tool_call_id="call_1", content="nothing"),
    ]
    control = set(engine.prompter._added.values())
    counted = [
        [
            n
            for n in engine.prompter.render(each, enable_thinking=False, tools=shown)
            if n in control
        ]
        for each, shown in (
            (turns, [Tool.model_validate_json(json.dumps(tool))]),
            (harmless, [SHOWN[0]]),
        )
    ]
    assert counted[0] == counted[1]


def test_a_template_that_wants_arguments_as_an_object_gets_one(tmp_path: Path) -> None:
    for file in (MODEL_DIR / "tokenizer").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["chat_template"] = (
        "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
        "{% for message in messages %}<|im_start|>{{ message.content }}"
        "{% for call in message.tool_calls or [] %}"
        "{{ call.function.arguments | tojson }}{% endfor %}"
        "<|im_end|>{% endfor %}"
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    prompter = load_prompter(tmp_path)
    assert prompter.has_tools
    assert not prompter.has_thinking
    assert '{"city": "Paris", "unit": "C"}' in prompter._text(TALK)


def test_qwen3s_own_calls_are_what_the_grammar_wants(qwen3: Prompter) -> None:
    request = ask(tools=TOOLS, tool_choice="required")
    constraint = Constraints(qwen3).compile(request, "none")
    assert constraint
    assert list(constraint.allowed().nonzero()[0]) == [qwen3.call_id]
    said = (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ås", "unit": "C"}}\n'
        "</tool_call>"
        '\n<tool_call>\n{"name": "light_on", "arguments": {}}\n</tool_call>'
    )
    ids = qwen3.tokenize(said)
    assert constraint.can_take(ids)
    constraint.accept(ids)
    assert constraint.is_complete
    calls = ToolCalls(qwen3, CallIds(1, []))
    pieces = [piece for token_id in ids for piece in calls.add(token_id) or ()]
    assert [call.function.arguments for call in join_tool_calls(pieces)] == [
        '{"city": "Ås", "unit": "C"}',
        "{}",
    ]
    assert not calls.is_open


def test_arguments_come_whole_however_they_are_cut() -> None:
    engine_prompter = load_prompter(MODEL_DIR / "tokenizer")
    arguments = '{"a": {"b": "} \\" ] {"}, "c": [[], {"d": "🦊"}]}'
    text = '\n{"name": "f", "arguments": ' + arguments + "}\n"
    dice = random.Random(0)
    single = {data: n for n, data in enumerate(engine_prompter.token_bytes)}
    for _ in range(20):
        ids = []
        left = text
        while left:
            size = dice.randint(1, 9)
            ids += (
                engine_prompter.tokenize(left[:size])
                if dice.random() < 0.5
                else [single[bytes([byte])] for byte in left[:size].encode()]
            )
            left = left[size:]
        calls = ToolCalls(engine_prompter, CallIds(None, [1]))
        assert engine_prompter.call_id is not None
        assert engine_prompter.end_call_id is not None
        pieces: list[ToolCallDelta] = []
        for token_id in (engine_prompter.call_id, *ids, engine_prompter.end_call_id):
            pieces += calls.add(token_id) or ()
        (call,) = join_tool_calls(pieces)
        assert call.function.arguments == arguments
        assert calls.add(ids[0]) is None
