"""The calls of tools in one answer, as their tokens come.

A call is ``{"name": "f", "arguments": {...}}`` between the tokens ``<tool_call>`` and
``</tool_call>``, and the grammar has seen to it that it is nothing else. Its name is said when it
is whole, then the text of its arguments as it comes; what is around them is never said.
"""

import hashlib
import json
import re
from collections.abc import Sequence

from edge_llm.engine.detokenize import Detokenizer
from edge_llm.engine.prompt import Prompter
from edge_llm.protocol import ToolCallDelta

__all__ = ["CallIds", "ToolCalls"]

HEAD = re.compile(r'\s*\{"name": ("(?:[^"\\]|\\.)*"), "arguments": ')
ID_CHARS = 24


class CallIds:
    """Names calls: the same ones each time that a request is gone on with, others in each turn."""

    def __init__(self, seed: int | None, prompt_ids: Sequence[int]) -> None:
        self._hash = hashlib.sha256(f"{seed} {list(prompt_ids)}".encode())

    def __getitem__(self, index: int) -> str:
        each = self._hash.copy()
        each.update(f" {index}".encode())
        return f"call_{each.hexdigest()[:ID_CHARS]}"


class ToolCalls:
    """Takes the tokens of an answer, and keeps those that belong to calls.

    Args:
        prompter: knows the tags, and the bytes of all other tokens.
        ids: of the calls, by their index.
    """

    def __init__(self, prompter: Prompter, ids: CallIds) -> None:
        self._prompter = prompter
        self._ids = ids
        self.num_begun = 0
        self.is_open = False
        """Whether the latest call is not whole yet."""

    def add(self, token_id: int) -> tuple[ToolCallDelta, ...] | None:
        """Return what a token of a call adds to it; None if it belongs to no call."""
        if token_id == self._prompter.call_id:
            self.num_begun += 1
            self.is_open = True
            self._detokenizer = Detokenizer(self._prompter.token_bytes)
            self._head: str | None = ""  # until the name is whole
            self._arguments = _Object()
            return ()
        if not self.is_open:
            return None
        if token_id == self._prompter.end_call_id:
            self.is_open = False
            return ()
        return tuple(self._pieces(self._detokenizer.add(token_id)))

    def _pieces(self, text: str) -> list[ToolCallDelta]:
        index = self.num_begun - 1
        pieces = []
        if self._head is not None:
            self._head += text
            found = HEAD.match(self._head)
            if not found:
                return []
            pieces.append(
                ToolCallDelta(index=index, id=self._ids[index], name=json.loads(found[1]))
            )
            text, self._head = self._head[found.end() :], None
        if arguments := self._arguments.add(text):
            pieces.append(ToolCallDelta(index=index, arguments=arguments))
        return pieces


class _Object:
    """Finds the end of a JSON object that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._is_escaped = self._is_over = False

    def add(self, text: str) -> str:
        """Return what of the text belongs to the object."""
        for at, char in enumerate(text):
            if self._is_over:
                return text[:at]
            self._take(char)
        return text

    def _take(self, char: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif self._in_string:
            self._is_escaped = char == "\\"
            self._in_string = char != '"'
        elif char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            self._is_over = self._depth == 0
