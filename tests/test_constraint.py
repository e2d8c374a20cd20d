"""Answers that must have a form: JSON of a schema, what a regex matches, one of some choices."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from edge_llm.engine.constraint import Constraint, Constraints
from edge_llm.engine.constraint.ending import EndingFinder
from edge_llm.engine.loading import load_engine
from edge_llm.engine.local import LocalEngine
from edge_llm.engine.prompt import Prompter
from edge_llm.engine.worker.frames import TO_WORKER, Generate, encode
from edge_llm.errors import UnsupportedSchemaError
from edge_llm.protocol import ChatRequest, Delta, Done
from edge_llm.settings import EngineSettings
from tests.qwen3 import load_qwen3
from tests.schemas import PYDANTIC, SCHEMAS, Schema

PERSON: Schema = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
}


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return load_engine(EngineSettings())


@pytest.fixture(scope="module")
def qwen3() -> Prompter:
    return load_qwen3()


def ask(**fields: Any) -> ChatRequest:
    """Make a request as it comes in: from JSON."""
    wild: dict[str, Any] = {
        "prompt": "Tell me something.",
        "temperature": 1.5,
        "top_k": 0,
        "seed": 1,
    }
    return ChatRequest.model_validate_json(json.dumps({**wild, "top_p": 1.0, **fields}))


def of_schema(schema: Schema) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}


def run(
    engine: LocalEngine, request: ChatRequest, resume: Sequence[int] = ()
) -> tuple[str, Done, list[Delta]]:
    *events, done = engine.generate(request, resume)
    assert isinstance(done, Done)
    deltas = [event for event in events if isinstance(event, Delta)]
    return "".join(delta.text for delta in deltas), done, deltas


def tokens(deltas: Sequence[Delta]) -> list[int]:
    return [token_id for delta in deltas for token_id in delta.token_ids]


def is_valid(text: str, schema: Schema) -> bool:
    value = json.loads(text)
    validator = jsonschema.Draft202012Validator
    return validator(schema, format_checker=validator.FORMAT_CHECKER).is_valid(value)


def test_200_schemas_are_kept_to_by_a_model_that_raves(engine: LocalEngine) -> None:
    assert len(SCHEMAS) == 200
    unfinished, invalid = [], []
    for number, schema in enumerate(SCHEMAS):
        request = ask(
            response_format=of_schema(schema), seed=number, max_tokens=60 if number < 100 else 160
        )
        text, done, _ = run(engine, request)
        if done.finish_reason != "stop":
            unfinished.append(number)
        elif not is_valid(text, schema):
            invalid.append((number, schema, text))
    assert not invalid
    print(f"{len(SCHEMAS) - len(unfinished)} of {len(SCHEMAS)} were finished, all of them valid")
    assert len(unfinished) <= 2, unfinished


@pytest.mark.parametrize("max_tokens", [12, 16, 24, 40, 90])
def test_an_answer_is_brought_to_its_end_before_its_limit(
    engine: LocalEngine, max_tokens: int
) -> None:
    for seed in range(20):
        request = ask(response_format=of_schema(PERSON), max_tokens=max_tokens, seed=seed)
        text, done, _ = run(engine, request)
        if max_tokens < 16:  # less than the names of the properties take
            assert done.finish_reason == "length"
        else:
            assert done.finish_reason == "stop"
            assert is_valid(text, PERSON)
        assert done.usage.completion_tokens <= max_tokens


def test_bytes_are_a_limit_too(engine: LocalEngine) -> None:
    for seed in range(20):
        request = ask(response_format=of_schema(PERSON), max_bytes=60, seed=seed)
        text, done, _ = run(engine, request)
        assert done.finish_reason == "stop"
        assert is_valid(text, PERSON)
        assert len(text.encode()) <= 60


def test_far_from_its_limit_an_answer_is_what_it_would_be_anyway(engine: LocalEngine) -> None:
    schema = {"enum": ["a fox", "an owl", "a wolf", "the moon"]}
    answers = {
        max_tokens: [
            run(engine, ask(response_format=of_schema(schema), max_tokens=max_tokens, seed=seed))[0]
            for seed in range(10)
        ]
        for max_tokens in (40, 400)
    }
    assert answers[40] == answers[400]
    assert len(set(answers[40])) > 1


def test_integers_have_an_end(engine: LocalEngine) -> None:
    digits = {str(engine.prompter.tokenize(digit)[0]): 100 for digit in "0123456789"}
    for seed in range(5):
        form = of_schema({"type": "integer"})
        text, _, _ = run(engine, ask(response_format=form, seed=seed, logit_bias=digits))
        assert len(text) > 10
        assert abs(int(text)) < 2**53


LISTED: Schema = {"type": "object", "properties": {"n": {"type": "null"}}}
PARTS: Schema = {"allOf": [LISTED, {"properties": {"m": {"type": "null"}}, "required": ["m"]}]}


def names_said(engine: LocalEngine, schema: Schema) -> set[str]:
    """Return all names of properties in some answers of a model that likes to go on."""
    bias = {str(engine.prompter.tokenize(",")[0]): 100}
    names = set()
    for seed in range(5):
        form = of_schema(schema)
        text, done, _ = run(
            engine, ask(response_format=form, seed=seed, logit_bias=bias, max_tokens=60)
        )
        assert done.finish_reason == "stop"
        assert is_valid(text, schema)
        names |= set(json.loads(text))
    return names


def test_objects_have_the_properties_that_are_listed_and_no_others(engine: LocalEngine) -> None:
    assert names_said(engine, LISTED) <= {"n"}
    assert names_said(engine, {**LISTED, "additionalProperties": {"type": "null"}}) - {"n"}


def test_objects_that_are_put_together_from_parts_are_left_open(engine: LocalEngine) -> None:
    assert "m" in names_said(engine, PARTS)


def test_json_object_is_any_object(engine: LocalEngine) -> None:
    for seed in range(10):
        request = ask(response_format={"type": "json_object"}, seed=seed, max_tokens=60)
        text, done, _ = run(engine, request)
        assert isinstance(json.loads(text), dict)
        assert done.finish_reason == "stop"


def test_the_text_format_is_no_form(engine: LocalEngine) -> None:
    plain, formatted = ask(), ask(response_format={"type": "text"})
    assert run(engine, plain)[0] == run(engine, formatted)[0]


@pytest.mark.parametrize(
    "regex",
    [r"\d{3}-[a-z]{2,5}", "^(yes|no)$", "a/b+c?", "[A-Z][a-z]+ is [0-9]{1,3}\\.", r"(?i)owl\n"],
)
def test_a_regex_matches_the_whole_answer(engine: LocalEngine, regex: str) -> None:
    for seed in range(10):
        form = {"type": "regex", "regex": regex}
        text, done, _ = run(engine, ask(response_format=form, seed=seed))
        assert re.fullmatch(regex, text)
        assert done.finish_reason == "stop"


def test_choices_are_said_to_the_letter(engine: LocalEngine) -> None:
    choices = ["yes", "yes, please", " no", "né 🦊", 'a "b" \\ /', "<|im_end|>", "line\nline"]
    said = {run(engine, ask(choices=choices, seed=seed))[0] for seed in range(60)}
    assert said <= set(choices)
    assert len(said) >= 5


def test_the_likeliest_choice_is_taken_without_temperature(engine: LocalEngine) -> None:
    request = ask(prompt="Which model is this?", choices=["I am a pirate.", "I am built-in."])
    greedy = request.model_copy(update={"temperature": 0.0})
    assert run(engine, greedy)[0] == run(engine, greedy)[0]


def test_thinking_is_free_and_the_answer_is_not(engine: LocalEngine) -> None:
    num_reasoned = 0
    for seed in range(20):
        request = ask(
            prompt="What is 4 plus 5?",
            response_format=of_schema({"type": "integer"}),
            enable_thinking=True,
            temperature=1.0,
            seed=seed,
        )
        text, done, deltas = run(engine, request)
        assert re.fullmatch(r"-?\d+", text)
        reasoning = "".join(delta.reasoning for delta in deltas)
        num_reasoned += bool(reasoning)
        assert bool(reasoning) == bool(done.usage.reasoning_tokens)
    assert num_reasoned > 10


def test_a_form_leaves_no_time_for_reasoning_without_end(engine: LocalEngine) -> None:
    for seed in range(10):
        request = ask(
            response_format=of_schema(PERSON), enable_thinking=True, max_tokens=60, seed=seed
        )
        text, done, _ = run(engine, request)
        assert done.finish_reason == "stop"
        assert is_valid(text, PERSON)


@pytest.mark.parametrize("fields", [{}, {"choices": ["yes", " no"]}])
@pytest.mark.parametrize("num_tokens", [0, 1, 2, 5])
def test_a_thinking_budget_is_kept(
    engine: LocalEngine, num_tokens: int, fields: dict[str, Any]
) -> None:
    for seed in range(5):
        request = ask(
            prompt="Who are you?",
            enable_thinking=True,
            thinking_budget=num_tokens,
            temperature=0.6,
            seed=seed,
            **fields,
        )
        text, done, deltas = run(engine, request)
        assert done.usage.reasoning_tokens <= num_tokens
        assert bool("".join(delta.reasoning for delta in deltas)) <= bool(num_tokens)
        assert text
        assert text in fields.get("choices", [text])


def test_a_thinking_budget_that_is_not_needed_changes_nothing(engine: LocalEngine) -> None:
    free, bound = (
        run(engine, ask(enable_thinking=True, temperature=0.0, thinking_budget=budget))
        for budget in (None, 200)
    )
    assert tokens(free[2]) == tokens(bound[2])
    assert free[1].usage.reasoning_tokens > 0


FORMS: list[dict[str, Any]] = [
    {"response_format": of_schema(PERSON)},
    {"response_format": of_schema(PERSON), "max_tokens": 30},
    {"response_format": of_schema(PYDANTIC[0]), "enable_thinking": True, "thinking_budget": 4},
    {"enable_thinking": True, "thinking_budget": 3},
    {"response_format": {"type": "regex", "regex": "[a-z]{10,20}"}, "repeat_penalty": 1.3},
    {"choices": ["one", "two", "three"], "frequency_penalty": 1.0},
]


@pytest.mark.parametrize("fields", FORMS)
def test_an_answer_goes_on_where_another_process_ended(
    engine: LocalEngine, fields: dict[str, Any]
) -> None:
    request = ask(seed=3, **{"max_tokens": 48, **fields})
    text, done, deltas = run(engine, request)
    assert run(engine, request)[0] == text
    for cut in range(0, len(deltas), 5):
        rest, end, _ = run(engine, request, tokens(deltas[:cut]))
        assert "".join(delta.text for delta in deltas[:cut]) + rest == text
        assert end.finish_reason == done.finish_reason
        assert end.usage.completion_tokens == done.usage.completion_tokens
        assert end.usage.reasoning_tokens == done.usage.reasoning_tokens


def test_a_stop_string_ends_a_form_too(engine: LocalEngine) -> None:
    text, done, _ = run(engine, ask(response_format=of_schema(PERSON), stop=['"name"']))
    assert (text, done.finish_reason) == ("{", "stop")


def test_no_bias_makes_up_for_not_being_allowed(engine: LocalEngine) -> None:
    likely = engine.prompter.tokenize("maybe")
    bias = {str(token_id): 100 for token_id in (*likely, *engine.prompter.end_ids)}
    assert run(engine, ask(choices=["yes", "no"], logit_bias=bias))[0] in ("yes", "no")


@pytest.mark.parametrize(
    ("fields", "param", "why"),
    [
        ({"response_format": of_schema({"type": "banana"})}, "response_format", "banana"),
        ({"response_format": of_schema({"$ref": "#/$defs/X"})}, "response_format", "not exist"),
        ({"response_format": of_schema({"$ref": "http://a.b/c"})}, "response_format", "a.b"),
        (
            {"response_format": of_schema({"type": "string", "pattern": "(?=a)b"})},
            "response_format",
            "look-around",
        ),
        (
            {"response_format": of_schema({"type": "integer", "minimum": 5, "maximum": 3})},
            "response_format",
            "5",
        ),
        (
            {"response_format": of_schema({"properties": 3, "allOf": 7})},
            "response_format",
            "must be",
        ),
        (
            {"response_format": {"type": "regex", "regex": r"(a)\1"}},
            "response_format",
            "backreferences",
        ),
        ({"response_format": {"type": "regex", "regex": "["}}, "response_format", "unclosed"),
        (
            {"response_format": of_schema({"type": "banana", "title": "x" * 5000})},
            "response_format",
            "banana",
        ),
    ],
)
def test_what_can_not_be_kept_to_is_refused(
    engine: LocalEngine, fields: dict[str, Any], param: str, why: str
) -> None:
    with pytest.raises(UnsupportedSchemaError, match=re.escape(why)) as error:
        run(engine, ask(**fields))
    assert error.value.param == param
    assert error.value.message.startswith(f"{param}: ")
    assert len(error.value.message) < 400
    assert "x-guidance" not in error.value.message


def test_a_refused_request_leaves_no_trace(engine: LocalEngine) -> None:
    expected = run(engine, ask())[0]
    with pytest.raises(UnsupportedSchemaError):
        run(engine, ask(response_format=of_schema({"type": "banana"})))
    assert run(engine, ask())[0] == expected


def test_llguidance_is_loaded_by_the_first_request_that_needs_it() -> None:
    script = (
        "import sys\n"
        "from edge_llm.engine.loading import load_engine\n"
        "from edge_llm.protocol import ChatRequest\n"
        "from edge_llm.settings import EngineSettings\n"
        "engine = load_engine(EngineSettings())\n"
        "list(engine.generate(ChatRequest(prompt='Hi', max_tokens=4)))\n"
        "assert 'llguidance' not in sys.modules\n"
        "list(engine.generate(ChatRequest(prompt='Hi', choices=('yes',))))\n"
        "assert 'llguidance' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[1])


def test_a_long_schema_reaches_the_worker_as_it_was(engine: LocalEngine) -> None:
    properties = {f"property_{n}": {"type": "string", "default": None} for n in range(3000)}
    schema = {"type": "object", "properties": properties, "required": ["property_2999"]}
    request = ask(response_format=of_schema(schema))
    line = encode(Generate(id=1, request=request))
    assert len(line) > 2 * 2**16
    read = TO_WORKER.validate_json(line)
    assert isinstance(read, Generate)
    assert read.request == request


def compiled(prompter: Prompter, **fields: Any) -> Constraint:
    constraint = Constraints(prompter).compile(ask(**fields), "none")
    assert constraint
    return constraint


def test_masks_of_qwen3(qwen3: Prompter) -> None:
    constraint = compiled(qwen3, response_format=of_schema(PERSON))
    assert qwen3._tokenizer.decode(constraint.forced()) == '{"name":'
    constraint.accept(qwen3.tokenize('{"name": "'))
    allowed = constraint.allowed()
    assert allowed.shape == (151_669,)
    assert 100_000 < np.count_nonzero(allowed) < 151_643
    assert not allowed[151_643:].any()  # no control tokens in a string
    constraint.accept(qwen3.tokenize('Ada", "age": 36'))
    assert not constraint.is_complete
    constraint.accept(qwen3.tokenize("}"))
    assert constraint.is_complete
    assert constraint.is_over


def test_qwen3s_own_way_of_cutting_json_is_allowed(qwen3: Prompter) -> None:
    text = '{"name": "Zoë \\"Z\\" 🦊", "age": 7}'
    constraint = compiled(qwen3, response_format=of_schema(PERSON))
    assert constraint.can_take(qwen3.tokenize(text))
    assert not constraint.can_take(qwen3.tokenize(text.replace("7", "-7")))


@pytest.mark.parametrize("said", ["", '{"name": "A', '{"name": "Ada", "age": 1'])
def test_the_end_of_an_answer_is_found(qwen3: Prompter, said: str) -> None:
    constraint = compiled(qwen3, response_format=of_schema(PERSON))
    constraint.accept(qwen3.tokenize(said))
    finder = EndingFinder(qwen3)
    ending = finder.find(constraint, most=100)
    assert ending
    text = said + b"".join(qwen3.token_bytes[n] for n in ending.token_ids).decode()
    assert is_valid(text, PERSON)
    assert finder.find(constraint, most=len(ending.token_ids)) == ending
    assert finder.find(constraint, most=len(ending.token_ids) - 1) is None


def test_every_schema_has_an_end_that_is_found(engine: LocalEngine) -> None:
    constraints, finder = Constraints(engine.prompter), EndingFinder(engine.prompter)
    for schema in SCHEMAS:
        constraint = constraints.compile(ask(response_format=of_schema(schema)), "none")
        assert constraint
        ending = finder.find(constraint, most=256)
        assert ending, schema
        text = b"".join(engine.prompter.token_bytes[n] for n in ending.token_ids).decode()
        assert is_valid(text, schema), (schema, text)
