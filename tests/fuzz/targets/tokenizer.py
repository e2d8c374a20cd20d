"""A model's tokenizer folder, with a file of it changed: it loads, or is refused by name."""

import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from edge_llm.engine.detokenize import Detokenizer
from edge_llm.engine.prompt import Prompter, load_prompter
from edge_llm.errors import InvalidRequestError, ModelError
from edge_llm.protocol import FunctionCall, Message, ToolCall
from tests.fuzz.json_mutation import json_mutator, json_words
from tests.fuzz.model_files import built_in_copy, edited, swapped
from tests.fuzz.source import Source
from tests.fuzz.target import Target

FILES = (
    "generation_config.json",
    "tokenizer_config.json",
    "config.json",
    "tokenizer.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
)
EDIT, REPLACE = range(2)
CALL = ToolCall(id="c", function=FunctionCall(name="f", arguments='{"a": [1, "<think>"]}'))
TURNS = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="Hi <|im_end|> ünï🦊"),
    Message(role="assistant", content="<think>\n\n</think>\n\nHello.", tool_calls=(CALL,)),
    Message(role="tool", content="1", tool_call_id="c"),
)


@cache
def _folder() -> Path:
    folder = built_in_copy().with_name("tokenizer")
    shutil.copytree(built_in_copy() / "tokenizer", folder)
    return folder


def check(data: bytes) -> None:
    source = Source(data)
    file, way = _folder() / source.choice(FILES), source.byte() % 2
    content = file.read_bytes() if way == EDIT and file.exists() else b""
    content = edited(content, source) if way == EDIT else source.rest()
    with swapped(file, content), suppress(ModelError):
        _check_prompter(load_prompter(_folder()))


def _check_prompter(prompter: Prompter) -> None:
    """Do all that loading an engine and answering does with a tokenizer."""
    assert len(prompter.token_bytes) == prompter.vocab_size
    assert all(type(token_id) is int for token_id in prompter.end_ids)
    assert isinstance(prompter.has_thinking, bool)
    assert isinstance(prompter.has_tools, bool)
    assert isinstance(prompter.sentence_end_ids, list)
    with suppress(InvalidRequestError):
        token_ids = prompter.render(TURNS, enable_thinking=False)
        assert all(0 <= token_id < prompter.vocab_size for token_id in token_ids)
        prompter.opens_reasoning(token_ids)
        detokenizer = Detokenizer(prompter.token_bytes)
        "".join(map(detokenizer.add, token_ids)).encode()


def seeds() -> Iterable[bytes]:
    folder = _folder()
    for index, name in enumerate(FILES):
        yield bytes([index, EDIT, 0])
        yield bytes([index, EDIT, 1, 9, 0, 0, 65, 0])
        file = folder / name
        if file.exists() and name != "tokenizer.json":
            yield bytes([index, REPLACE]) + file.read_bytes()
        yield bytes([index, REPLACE]) + b"{}"
    for eos in (1, [1, 2], None, [None], "a", [[1]], {"a": 1}, 1.5, 10**9):
        body = {"eos_token_id": eos, "temperature": 0.5, "top_k": 20}
        yield bytes([0, REPLACE]) + json.dumps(body).encode()
    for template in (
        "{{ messages[0].content }}",
        "{{ raise_exception('no') }}",
        "{{ 1 / 0 }}",
        "{%",
    ):
        yield bytes([4, REPLACE]) + template.encode()
    yield bytes([4, REPLACE]) + b"{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    yield bytes([3, REPLACE]) + json.dumps({"model": {"type": "BPE"}}).encode()
    yield bytes([0, REPLACE]) + b"[" * 3000


WORDS = ("eos_token_id", "temperature", "top_p", "top_k", "chat_template", "tokenizer_class")
TARGET = Target(
    check,
    seeds,
    (*json_words(*WORDS, "added_tokens", "special", "content", "id"), "{{ ", " }}", "{% ", " %}"),
    mutate=json_mutator(2),
)
