"""Schemas, regular expressions and tools: held to, or refused by name."""

import json
from collections.abc import Iterable
from functools import cache
from typing import Literal

from pydantic import ValidationError

from edge_llm.engine.constraint import Constraint, Constraints, EndingFinder, Reasoning
from edge_llm.engine.prompt import Prompter, load_prompter
from edge_llm.errors import UnsupportedSchemaError
from edge_llm.protocol import ChatRequest, JsonSchemaFormat
from edge_llm.tiny import MODEL_DIR
from tests.fuzz.json_mutation import json_mutator, json_words
from tests.fuzz.source import Source
from tests.fuzz.target import Target

REASONING: tuple[Reasoning, ...] = ("none", "possible", "open")
KINDS: tuple[Literal["schema", "regex", "tool", "choices", "both"], ...] = (
    "schema",
    "regex",
    "tool",
    "choices",
    "both",
)
MAX_STEPS = 24
NUM_HEAD = 4


@cache
def _prompter() -> Prompter:
    return load_prompter(MODEL_DIR / "tokenizer")


@cache
def _constraints() -> Constraints:
    return Constraints(_prompter())


@cache
def _endings() -> EndingFinder:
    return EndingFinder(_prompter())


def check(data: bytes) -> None:
    source = Source(data)
    kind, reasoning = source.choice(KINDS), source.choice(REASONING)
    steps, which = source.byte() % MAX_STEPS, source.byte()
    try:
        request = ChatRequest.model_validate_json(_request(kind, source.rest()))
    except (ValidationError, ValueError):
        return
    try:
        constraint = _constraints().compile(request, reasoning)
        if constraint:
            _walk(constraint, request, steps, which)
    except UnsupportedSchemaError:
        return


def _request(kind: str, body: bytes) -> bytes:
    """Make a request around a schema or a regular expression, which is JSON or bare text."""
    text = body.decode(errors="replace")
    function = f'{{"type": "function", "function": {{"name": "f", "parameters": {text}}}}}'
    schema = f'{{"type": "json_schema", "json_schema": {{"schema": {text}}}}}'
    inside = {
        "schema": f'"response_format": {schema}',
        "regex": f'"response_format": {{"type": "regex", "regex": {json.dumps(text)}}}',
        "tool": f'"tools": [{function}], "tool_choice": "required"',
        "choices": f'"choices": {json.dumps(text.split(chr(10)))}',
        "both": f'"tools": [{function}], "response_format": {schema}',
    }
    return f'{{"prompt": "Hi", {inside[kind]}}}'.encode()


def _walk(constraint: Constraint, request: ChatRequest, steps: int, which: int) -> None:
    """Take tokens that are allowed; an answer that has no end would be endless."""
    said = b""
    for _ in range(steps):
        if constraint.is_over:
            break
        allowed = constraint.allowed().nonzero()[0]
        assert len(allowed), "nothing may come next, and the answer may not end"
        token_id = int(allowed[which % len(allowed)])
        assert constraint.can_take([token_id]) or token_id in _prompter().end_ids
        constraint.accept([token_id])
        said += _prompter().token_bytes[token_id]
    if constraint.is_over:
        return
    ending = _endings().find(constraint, 200)
    form = request.response_format
    is_alone = steps == 0 and isinstance(form, JsonSchemaFormat) and not request.tools
    if ending and is_alone:
        said = b"".join(_prompter().token_bytes[token_id] for token_id in ending.token_ids)
        json.loads(said.rpartition(b"\n\n")[2])


def seeds() -> Iterable[bytes]:
    schemas = [
        {},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {
            "type": "array",
            "items": {"type": "string", "maxLength": 5},
            "minItems": 1,
            "maxItems": 3,
        },
        {"enum": ["a", 1, None, {"b": []}]},
        {"anyOf": [{"type": "null"}, {"type": "number", "minimum": -1, "exclusiveMaximum": 2.5}]},
        {"type": "string", "pattern": "^[a-z]{2,5}$"},
        {"type": "string", "format": "date-time"},
        {"type": "integer", "multipleOf": 10, "maximum": 100},
        {
            "$ref": "#/$defs/n",
            "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#"}}}},
        },
        {"allOf": [{"type": "object", "properties": {"a": {}}}, {"required": ["a"]}]},
        {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 2},
        {"type": "array", "prefixItems": [{"const": 1}], "items": False},
        {"type": ["object", "null"], "patternProperties": {"^x": {"type": "integer"}}},
    ]
    for schema in schemas:
        for kind in (0, 2, 4):
            for reasoning in range(3):
                yield bytes([kind, reasoning, 5 * reasoning, 7]) + json.dumps(schema).encode()
    for regex in (
        "[a-z]+",
        r"\d{4}-\d\d",
        "(yes|no)",
        "a|b*",
        r"\p{L}+",
        "(?i)x",
        "[^\n]{1,80}",
        "/",
    ):
        yield bytes([1, 0, 8, 3]) + regex.encode()
    yield bytes([3, 0, 4, 0]) + "yes\nno\nperhaps 🦊".encode()


WORDS = (
    *("type", "properties", "required", "additionalProperties", "items", "prefixItems", "enum"),
    *("const", "anyOf", "allOf", "oneOf", "$ref", "$defs", "minimum", "maximum", "multipleOf"),
    *("pattern", "format", "minLength", "maxItems", "object", "string", "integer", "array"),
)
TARGET = Target(
    check,
    seeds,
    (*json_words(*WORDS), "#/$defs/n", "{2,5}", r"\d", r"\p{L}", "(?i)", "[^", "|", "*", "+?", "$"),
    max_len=1500,
    mutate=json_mutator(NUM_HEAD),
)
