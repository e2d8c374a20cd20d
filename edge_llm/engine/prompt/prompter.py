"""A conversation to token ids: chat template and tokenizer, by transformers.

Heavy: only the worker process imports this module. Transformers would import torch wherever torch
happens to be installed, 2 s and 500 MB that nothing here needs, so torch is made to look absent
before transformers is imported.
"""

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from edge_llm.engine.prompt.generation_config import read_generation_config
from edge_llm.engine.prompt.harmless import END_THINK, THINK, Harmless
from edge_llm.engine.prompt.time_limit import time_limit
from edge_llm.errors import InvalidRequestError, ModelError
from edge_llm.protocol import FunctionCall, FunctionDefinition, Message, Tool
from edge_llm.text.surrogates import mend_in

__all__ = ["Prompter", "load_prompter"]

END_OF_TURN = ("<|im_end|>", "<|endoftext|>")
CALL, END_CALL = "<tool_call>", "</tool_call>"
RENDER_TIMEOUT_S = 5.0
"""A conversation of 256 KiB takes milliseconds."""
MAX_RENDERED_CHARS = 2**23
"""More than all that one request and its session can say."""
PROBE = "a_name_that_no_template_has"
GREETING = Message(role="user", content="Hi")
SENTENCE_MARKS = frozenset(mark.encode() for mark in (".", "!", "?", "。", "\uff01", "\uff1f"))


class Prompter:
    """The tokenizer of a model, and its chat template."""

    def __init__(self, tokenizer: Any, generation_config: dict[str, Any]) -> None:
        self._tokenizer = tokenizer
        self.generation_config = generation_config
        self.vocab_size = len(tokenizer)
        self.token_bytes: Sequence[bytes] = _token_bytes(tokenizer)
        self._added: dict[str, int] = tokenizer.get_added_vocab()
        self._harmless = Harmless(tokenizer)
        self.think_id = self._added.get(THINK)
        self.end_think_id = self._added.get(END_THINK)
        self.call_id = self._added.get(CALL)
        self.end_call_id = self._added.get(END_CALL)

    @property
    def tokenizer_json(self) -> str:
        """The whole tokenizer, as in a ``tokenizer.json``."""
        return str(self._tokenizer.backend_tokenizer.to_str())

    @cached_property
    def has_thinking(self) -> bool:
        """Whether the chat template lets the model reason first, or makes it."""
        if self.think_id is None or self.end_think_id is None:
            return False
        try:
            with_thinking, without = (
                self.render([GREETING], enable_thinking=enable_thinking)
                for enable_thinking in (True, False)
            )
        except InvalidRequestError:
            return False
        return with_thinking != without or self.opens_reasoning(with_thinking)

    @cached_property
    def has_tools(self) -> bool:
        """Whether the chat template shows tools, and calls of them have tokens of their own."""
        if self.call_id is None or self.end_call_id is None:
            return False
        tools = [Tool(type="function", function=FunctionDefinition(name=PROBE))]
        try:
            return PROBE in self._text([GREETING], tools=tools)
        except InvalidRequestError:
            return False

    def opens_reasoning(self, prompt_ids: Sequence[int]) -> bool:
        """Tell whether a prompt's last turn has begun to reason; earlier turns don't count."""
        marks = {self.think_id, self.end_think_id, *self.end_ids}
        last = next((token_id for token_id in reversed(prompt_ids) if token_id in marks), None)
        return last is not None and last == self.think_id

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ids = {self._added[token] for token in END_OF_TURN if token in self._added}
        if self._tokenizer.eos_token_id is not None:
            ids.add(self._tokenizer.eos_token_id)
        eos = self.generation_config.get("eos_token_id", [])
        ids.update(eos if isinstance(eos, list) else [eos])
        return frozenset(token_id for token_id in ids if token_id < self.vocab_size)

    @cached_property
    def sentence_end_ids(self) -> list[int]:
        """Tokens that end a sentence, and nothing else: a mark, perhaps with white space after."""
        tokens = enumerate(self.token_bytes)
        return [token_id for token_id, token in tokens if token.rstrip() in SENTENCE_MARKS]

    def render(
        self,
        conversation: Sequence[Message],
        *,
        enable_thinking: bool,
        tools: Sequence[Tool] = (),
    ) -> list[int]:
        """Return the token ids of a conversation, up to where the answer begins.

        Args:
            conversation: the turns.
            enable_thinking: for templates that ask.
            tools: what the model is told that it may call.

        Raises:
            InvalidRequestError: the model's chat template refuses the conversation.
        """
        return self.tokenize(self._text(conversation, enable_thinking, tools))

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text; what looks like a control token is one."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def render_history(
        self, conversation: Sequence[Message], tools: Sequence[Tool] = ()
    ) -> list[int]:
        """Return the token ids with which the next turn of a conversation will begin.

        Found by asking: what two prompts have in common whose last words differ.
        """
        first, second = (
            self.render(
                [*conversation, Message(role="user", content=words)],
                enable_thinking=False,
                tools=tools,
            )
            for words in ("1", "a")
        )
        length = next(
            n for n, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]
        )
        return first[:length]

    def _text(
        self,
        conversation: Sequence[Message],
        enable_thinking: bool = False,
        tools: Sequence[Tool] = (),
    ) -> str:
        turns = [self._as_template_takes_it(turn) for turn in conversation]
        return self._apply(turns, enable_thinking, [self._shown(tool) for tool in tools])

    def _apply(
        self, turns: list[dict[str, Any]], enable_thinking: bool, tools: list[dict[str, Any]]
    ) -> str:
        # The template came with the model, from wherever that came: transformers runs it in Jinja's
        # sandbox, but that has no limits.
        try:
            with time_limit(RENDER_TIMEOUT_S):
                text = str(
                    self._tokenizer.apply_chat_template(
                        turns,
                        tools=tools or None,
                        add_generation_prompt=True,
                        tokenize=False,
                        enable_thinking=enable_thinking,
                    )
                )
            if len(text) > MAX_RENDERED_CHARS:
                raise ValueError(f"it makes {len(text)} characters of it")
        except Exception as exc:
            raise InvalidRequestError(
                f"the model's chat template refuses this conversation: {exc}", param="messages"
            ) from exc
        return text

    def _as_template_takes_it(self, turn: Message) -> dict[str, Any]:
        harmless = self._harmless.answer if turn.role == "assistant" else self._harmless.text
        shown: dict[str, Any] = {
            "role": "system" if turn.role == "developer" else turn.role,
            "content": harmless(turn.content),
        }
        if turn.tool_calls:
            shown["tool_calls"] = [
                {
                    "id": self._harmless.text(call.id),
                    "type": "function",
                    "function": {
                        "name": self._harmless.text(call.function.name),
                        "arguments": self._arguments(call.function),
                    },
                }
                for call in turn.tool_calls
            ]
        if turn.tool_call_id is not None:
            shown["tool_call_id"] = self._harmless.text(turn.tool_call_id)
        return shown

    def _shown(self, tool: Tool) -> dict[str, Any]:
        function = tool.function
        shown: dict[str, Any] = {"name": function.name}
        if function.description is not None:
            shown["description"] = function.description
        shown["parameters"] = function.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": self._harmless.value(shown)}

    def _arguments(self, call: FunctionCall) -> Any:
        """Return the arguments of a call: as they came, where the template takes text."""
        if self._takes_text_arguments:
            return self._harmless.text(call.arguments)
        try:
            return self._harmless.value(mend_in(json.loads(call.arguments)))
        except (ValueError, RecursionError) as exc:
            raise InvalidRequestError(
                f"the arguments of the call of {call.name!r} are not JSON: {exc}", param="messages"
            ) from exc

    @cached_property
    def _takes_text_arguments(self) -> bool:
        """Whether the template shows a call's arguments as they stand, if they come as text.

        Others must have them as an object, and write it in their own way.
        """
        arguments = f'{{"{PROBE}": 1}}'
        call = {"name": PROBE, "arguments": arguments}
        turns: list[dict[str, Any]] = [
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "call_0", "type": "function", "function": call}],
            },
            {"role": "tool", "content": "1", "tool_call_id": "call_0"},
        ]
        try:
            return arguments in self._apply(turns, enable_thinking=False, tools=[])
        except InvalidRequestError:
            return False


def load_prompter(directory: Path) -> Prompter:
    """Load the tokenizer folder of a model directory; takes about a second.

    Raises:
        ModelError: the folder can't be used.
    """
    transformers = _import_transformers()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            directory,
            local_files_only=True,
            trust_remote_code=False,  # nor code in the directory
        )
    except Exception as exc:
        raise ModelError(
            f"{directory}: the tokenizer can't be loaded ({exc}); "
            "copy tokenizer.json and tokenizer_config.json from the model's Hugging Face page"
        ) from exc
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"{directory}: tokenizer_config.json has no chat_template; "
            "edge-llm needs the tokenizer of a chat model"
        )
    prompter = Prompter(tokenizer, read_generation_config(directory))
    try:
        prompter.render([GREETING], enable_thinking=False)
    except InvalidRequestError as exc:
        raise ModelError(f"{directory}: not even a greeting can be said: {exc.message}") from exc
    return prompter


def _import_transformers() -> Any:
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]
    os.environ["HF_HUB_OFFLINE"] = "1"  # a model directory is complete, or it is an error
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    with contextlib.redirect_stdout(sys.stderr):
        import transformers

    return transformers


def _token_bytes(tokenizer: Any) -> list[bytes]:
    """Return the bytes of every token of a byte-level BPE; control tokens have none.

    Raises:
        ModelError: the tokenizer is of another kind.
    """
    byte_of = _byte_alphabet()
    special = {n for n, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.update(tokenizer.all_special_ids)  # those that have a role, as eos_token
    added = tokenizer.get_added_vocab()
    table = []
    for token_id, token in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
        if token_id in special or token is None:
            table.append(b"")
        elif token in added:
            table.append(token.encode())
        else:
            try:
                table.append(bytes(byte_of[char] for char in token))
            except KeyError as exc:
                raise ModelError(
                    f"token {token_id} ({token!r}) is not of a byte-level BPE; "
                    "edge-llm runs models of the Qwen families"
                ) from exc
    return table


def _byte_alphabet() -> dict[str, int]:
    """Return GPT-2's printable stand-ins for bytes, as every byte-level BPE uses them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + n): byte for n, byte in enumerate(others)})
    return alphabet
