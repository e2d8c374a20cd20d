"""What an answer may be, token by token: masks over the vocabulary, by llguidance.

Only the worker process imports llguidance, and only when the first request needs it: its tree of a
large vocabulary takes a second to make, and 100 MB.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_llm.engine.constraint.grammar import Grammar, GrammarRule, Reasoning, make_grammar
from edge_llm.engine.constraint.panic import refusing_panics
from edge_llm.engine.prompt import Prompter
from edge_llm.errors import UnsupportedSchemaError
from edge_llm.protocol import ChatRequest

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["Constraint", "Constraints"]

MAX_MESSAGE_CHARS = 300
MAX_FORCED = 64
"""Forced tokens that are given out at a time: with log-probabilities of 20 others each, they must
still fit into a line of the worker's."""


class Constraint:
    """The state of one answer between two tokens."""

    def __init__(self, matcher: "LLMatcher", vocab_size: int, param: str | None) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._param = param
        self._mask = np.zeros((1, -(-vocab_size // 32)), np.int32)

    def allowed(self) -> NDArray[np.bool_]:
        """Return ``(vocab,)``: which tokens may come next; never none.

        Raises:
            UnsupportedSchemaError: the grammar has turned out to be too complex.
        """
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._mask)
        self._check()
        bits = np.unpackbits(self._mask.view(np.uint8)[0], bitorder="little")
        return bits[: self._vocab_size].view(np.bool_)

    def accept(self, token_ids: Sequence[int]) -> None:
        """Take the tokens that came next.

        Raises:
            UnsupportedSchemaError: they can't.
        """
        self._matcher.consume_tokens(list(token_ids))
        self._check()

    def can_take(self, token_ids: Sequence[int]) -> bool:
        """Tell whether all of these tokens may come next."""
        return self._matcher.validate_tokens(list(token_ids)) == len(token_ids)

    def forced(self) -> list[int]:
        """Return the tokens that must come next, as the tokenizer would cut them; often none."""
        return list(self._matcher.compute_ff_tokens()[:MAX_FORCED])

    def copy(self) -> "Constraint":
        """Return the same state, to try something out."""
        return Constraint(self._matcher.deep_copy(), self._vocab_size, self._param)

    @property
    def is_complete(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting())

    @property
    def is_over(self) -> bool:
        """Whether the answer must end here."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UnsupportedSchemaError(
                f"the answer can't be held to its form: {_first_line(self._matcher.get_error())}",
                param=self._param,
            )


class Constraints:
    """Makes the constraints of a model's answers.

    Args:
        prompter: has the tokenizer.
    """

    def __init__(self, prompter: Prompter) -> None:
        self._prompter = prompter

    def compile(self, request: ChatRequest, reasoning: Reasoning) -> Constraint | None:
        """Return what holds the answer to what the request asks for; none if that is nothing.

        Raises:
            UnsupportedSchemaError: it can't be held to that; names the field.
        """
        with refusing_panics():
            grammar = make_grammar(request, reasoning)
        if not grammar:
            return None
        from llguidance import LLMatcher

        with refusing_panics():
            matcher = LLMatcher(self._tokenizer, str(grammar), log_level=0)
        if matcher.is_error():
            raise self._refusal(grammar, matcher.get_error())
        param = next((rule.param for rule in grammar.rules if rule.param), None)
        return Constraint(matcher, self._prompter.vocab_size, param)

    @cached_property
    def _tokenizer(self) -> "LLTokenizer":
        from llguidance import LLTokenizer

        return LLTokenizer(
            self._prompter.tokenizer_json,
            n_vocab=self._prompter.vocab_size,
            eos_token=sorted(self._prompter.end_ids),
        )

    def _refusal(self, grammar: Grammar, message: str) -> UnsupportedSchemaError:
        """Find the field that is at fault: the rule that does not work by itself either."""
        from llguidance import LLMatcher

        for rule in grammar.rules:
            alone = str(GrammarRule("start", rule.body))
            if not rule.param:
                continue
            with refusing_panics(rule.param):
                found = LLMatcher.validate_grammar(alone)
            if found:
                return UnsupportedSchemaError(
                    f"{rule.param}: {_first_line(found)}", param=rule.param
                )
        return UnsupportedSchemaError(_first_line(message))


def _first_line(message: str) -> str:
    """Return what llguidance says, without the grammar that it shows, which may be long."""
    said = message.partition("\n   1 |")[0].partition("\n<state>")[0]
    said = said.partition("failed to compile JSON schema: ")[2] or said
    said = " ".join(said.split())
    return said if len(said) <= MAX_MESSAGE_CHARS else f"{said[:MAX_MESSAGE_CHARS]}…"
