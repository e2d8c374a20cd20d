"""The grammar of one answer: reasoning, then its form, or text and calls of tools.

It is written in llguidance's Lark. Control tokens such as ``<tool_call>`` stand in it by name, and
only as themselves: the same characters inside a string are text.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edge_llm.engine.constraint.schema import schema_part
from edge_llm.errors import UnsupportedSchemaError
from edge_llm.protocol import (
    ChatRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedTool,
    RegexFormat,
    ResponseFormat,
    Tool,
)

__all__ = ["Grammar", "GrammarRule", "Reasoning", "make_grammar"]

Reasoning = Literal["none", "possible", "open"]
"""Whether the answer may begin with reasoning; ``open``: the prompt has begun it."""

ANYTHING = "/(?s:.*)/"
THEN = r'"\n\n"'  # what models of the Qwen families say after their reasoning
NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class GrammarRule:
    """One rule, and the field of the request that it comes from."""

    name: str
    body: str
    param: str | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.body}\n"


@dataclass(frozen=True, slots=True)
class Grammar:
    """The rules of an answer; ``start`` is the first one."""

    rules: tuple[GrammarRule, ...]

    def __str__(self) -> str:
        return "".join(map(str, self.rules))


def make_grammar(request: ChatRequest, reasoning: Reasoning) -> Grammar | None:
    """Return the grammar that a request asks for; none if its answer is free.

    Raises:
        UnsupportedSchemaError: the arguments of a tool are no object.
    """
    form = _form(request)
    if not form and not request.usable_tools:
        return None
    calls = list(_calls(request))
    rules = [*form, *calls]
    match bool(form), bool(calls), _must_call(request):
        case _, True, True:
            answer, is_free = "calls", False
        case True, True, _:
            answer, is_free = "form | calls", False
        case True, False, _:
            answer, is_free = "form", False
        case _:
            answer, is_free = "TEXT calls?", True
    rules.insert(0, GrammarRule("answer", answer))
    if is_free:
        rules.append(GrammarRule("TEXT", ANYTHING))
    return Grammar((*_before_answer(reasoning, then="" if is_free else THEN), *rules))


def _before_answer(reasoning: Reasoning, then: str) -> Iterator[GrammarRule]:
    match reasoning:
        case "none":
            yield GrammarRule("start", "answer")
        case "possible":
            yield GrammarRule("start", "reasoning? answer")
            yield GrammarRule("reasoning", f"<think> {ANYTHING} </think> {then}")
        case "open":
            yield GrammarRule("start", f"{ANYTHING} </think> {then} answer")


def _form(request: ChatRequest) -> list[GrammarRule]:
    if request.choices:
        body = " | ".join(_literal(choice) for choice in dict.fromkeys(request.choices))
        return [GrammarRule("form", body, "choices")]
    if body := _format_part(request.response_format):
        return [GrammarRule("form", body, "response_format")]
    return []


def _format_part(form: ResponseFormat | None) -> str:
    match form:
        case JsonObjectFormat():
            return schema_part({"type": "object"})
        case JsonSchemaFormat():
            return schema_part(form.json_schema.schema_)
        case RegexFormat():
            from llguidance import regex_to_lark

            # \d is an ASCII digit; in Rust's syntax it would be one of any script.
            return f"/{regex_to_lark(form.regex, use_ascii='d')}/"
    return ""


def _must_call(request: ChatRequest) -> bool:
    return request.tool_choice == "required" or isinstance(request.tool_choice, NamedTool)


def _calls(request: ChatRequest) -> Iterator[GrammarRule]:
    """Yield the rules of the calls, in the form in which Qwen's chat templates show them."""
    tools = _callable_tools(request)
    if not tools:
        return
    once = request.parallel_tool_calls is False
    yield GrammarRule("calls", "call" if once else r'call ("\n" call)*')
    yield GrammarRule("call", r'<tool_call> "\n" function "\n" </tool_call>')
    yield GrammarRule("function", " | ".join(f"function_{index}" for index, _ in tools))
    for index, tool in tools:
        head = _literal(f'{{"name": {json.dumps(tool.function.name)}, "arguments": ')
        yield GrammarRule(f"function_{index}", f'{head} arguments_{index} "}}"')
        schema = tool.function.parameters
        schema = NO_ARGUMENTS if schema is None else {"type": "object", **schema}
        param = f"tools.{index}.function.parameters"
        if schema["type"] != "object":
            raise UnsupportedSchemaError(f"{param}: its type must be 'object'", param=param)
        yield GrammarRule(f"arguments_{index}", schema_part(schema), param)


def _callable_tools(request: ChatRequest) -> Sequence[tuple[int, Tool]]:
    tools = list(enumerate(request.usable_tools))
    if isinstance(choice := request.tool_choice, NamedTool):
        return [pair for pair in tools if pair[1].function.name == choice.function.name]
    return tools


def _literal(text: str) -> str:
    """Return a string of the grammar; its escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)
