"""Chunks of OpenAI's chat completions, as servers really send them, to deltas of ours.

Read leniently: a field that is missing, null or unknown is no reason to lose an answer. Where
servers differ, the difference ends here: reasoning has two names, tool calls come without index or
id, an answer that was to be streamed comes whole, and some servers never count tokens.
"""

import json
import math
from typing import Annotated, Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_llm.engine.upstream.errors import error_in_stream
from edge_llm.engine.upstream.parse import parse_json
from edge_llm.errors import UpstreamError
from edge_llm.protocol import (
    Delta,
    FinishReason,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
    Usage,
)

__all__ = ["ChunkReader"]

END = "[DONE]"
LEAST_LOGPROB = -9999.0  # as OpenAI says of what can't be; some say -Infinity, which is no JSON
SHOWN_CHARS = 60  # of what is no JSON

FINISH_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
"""All others mean that the model ended: stop, eos, end_turn, content_filter."""


class _Sent(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Function(_Sent):
    # What no function can be called would be refused where the call is put together. Pieces after
    # the first one may have an empty name.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{0,128}$")] | None = None
    arguments: str | dict[str, Any] | None = None


class _Call(_Sent):
    index: int | None = None
    id: str | None = None
    function: _Function = _Function()


class _Message(_Sent):
    content: str | None = None
    reasoning_content: str | None = None  # llama-server, DeepSeek, older vLLM, ours
    reasoning: str | None = None  # Ollama, newer vLLM
    tool_calls: list[_Call] | None = None


class _TopToken(_Sent):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Token(_TopToken):
    top_logprobs: list[_TopToken] | None = None


class _Logprobs(_Sent):
    content: list[_Token] | None = None


class _Choice(_Sent):
    delta: _Message | None = None
    message: _Message | None = None  # of an answer that was not streamed
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _PromptDetails(_Sent):
    cached_tokens: int | None = None


class _CompletionDetails(_Sent):
    reasoning_tokens: int | None = None


class _Usage(_Sent):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None

    def translate(self) -> Usage:
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=(prompt and prompt.cached_tokens) or 0,
            completion_tokens=self.completion_tokens or 0,
            reasoning_tokens=(completion and completion.reasoning_tokens) or 0,
        )


class _Chunk(_Sent):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None


class ChunkReader:
    """Reads the chunks of one answer.

    Attributes:
        is_over: the server has said that nothing more comes.
        has_begun: something of the answer has come.
        finish_reason: why it ended; none as long as it has not.
    """

    def __init__(self) -> None:
        self.is_over = False
        self.has_begun = False
        self.finish_reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._num_pieces = 0
        self._begun: dict[int, str] = {}  # ids of the calls by their index
        self._last_index = 0

    @property
    def usage(self) -> Usage:
        """The server's counts; if there are none, a token for each chunk that had something."""
        return self._usage or Usage(completion_tokens=self._num_pieces)

    def read(self, data: str) -> Delta:
        """Take the data of an event, or a whole body; return what it adds, often nothing.

        Raises:
            UpstreamError: it is an error, or no chunk at all.
        """
        if data.strip() == END:
            self.is_over = True
            self.finish_reason = self.finish_reason or "stop"
            return Delta()
        chunk = _parse(data)
        if chunk.usage:
            self._usage = chunk.usage.translate()
        delta = Delta()
        for choice in (chunk.choices or ())[:1]:
            delta = self._read_choice(choice)
        if delta != Delta():
            self.has_begun = True
            self._num_pieces += 1
        return delta

    def _read_choice(self, choice: _Choice) -> Delta:
        message = choice.delta or choice.message or _Message()
        delta = Delta(
            text=message.content or "",
            reasoning=message.reasoning_content or message.reasoning or "",
            tool_calls=tuple(self._read_call(call) for call in message.tool_calls or ()),
            logprobs=_logprobs(choice.logprobs),
        )
        if choice.finish_reason:
            # Some end with "stop" also where they wait for a tool.
            reason = FINISH_REASONS.get(choice.finish_reason, "stop")
            waits = reason == "stop" and (self._begun or delta.tool_calls)
            self.finish_reason = "tool_calls" if waits else reason
        return delta

    def _read_call(self, call: _Call) -> ToolCallDelta:
        arguments = call.function.arguments or ""
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments, ensure_ascii=False)
        index = self._index_of(call)
        is_first = index not in self._begun
        if is_first:
            self._begun[index] = call.id or f"call_{uuid4().hex[:24]}"
        self._last_index = index
        return ToolCallDelta(
            index=index,
            id=self._begun[index] if is_first else None,
            name=call.function.name if is_first else None,
            arguments=arguments,
        )

    def _index_of(self, call: _Call) -> int:
        """Return which call a piece belongs to; without an index, a new name begins a new one."""
        if call.index is not None:
            return call.index
        return len(self._begun) if call.function.name else self._last_index


def _parse(data: str) -> _Chunk:
    try:
        body = parse_json(data)
    except ValueError as exc:
        raise UpstreamError(f"the server sent what is no JSON: {data[:SHOWN_CHARS]!r}") from exc
    if not isinstance(body, dict) or body.get("error"):
        raise error_in_stream(body)
    try:
        return _Chunk.model_validate(body)
    except ValidationError as exc:
        where = ".".join(map(str, exc.errors()[0]["loc"]))
        raise UpstreamError(f"the server sent a chunk that is none: {where} is wrong") from exc


def _logprobs(sent: _Logprobs | None) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(
            token=token.token,
            bytes=_bytes(token),
            logprob=_logprob(token),
            top_logprobs=tuple(
                TopLogprob(token=top.token, bytes=_bytes(top), logprob=_logprob(top))
                for top in token.top_logprobs or ()
            ),
        )
        for token in (sent and sent.content) or ()
    )


def _bytes(token: _TopToken) -> tuple[int, ...]:
    return tuple(token.token.encode(errors="replace") if token.bytes is None else token.bytes)


def _logprob(token: _TopToken) -> float:
    return token.logprob if math.isfinite(token.logprob) else LEAST_LOGPROB
