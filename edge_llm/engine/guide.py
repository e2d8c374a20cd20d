"""What must and what may come next in one answer, whatever the model would like.

Three things guide it: the form that it must have, the budget of its reasoning, and its limit in
tokens, bytes or time, before which a form or a call has to be brought to its end. What must come is
taken as it is and not sampled. As it follows from the tokens so far, an answer that goes on in
another process is guided in the same way; for that, forced tokens are given out together.

Far from its limit an answer is left alone. Near it, each token that was sampled is looked at: if
the answer could not be ended any more after it, it is ended now. So it is valid, and says ``stop``,
unless even its shortest end is too long.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edge_llm.engine.answer import Answer
from edge_llm.engine.constraint import Constraint, Constraints
from edge_llm.engine.constraint.ending import Ending, EndingFinder
from edge_llm.engine.constraint.grammar import Reasoning
from edge_llm.engine.prompt import Prompter
from edge_llm.engine.sampling import Sampler
from edge_llm.engine.thinking import ThinkingBudget
from edge_llm.protocol import ChatRequest

__all__ = ["Guide", "Guides"]

LAST_TOKENS, LAST_BYTES = 64, 256
"""So near to its limit, or in the second half of its tokens, an answer is watched for its end."""

REASONING_SHARE = 0.75
"""Of the tokens of an answer that must have a form; or it might be all reasoning, and no answer."""


class Guide:
    """Guides one answer.

    Args:
        answer: as far as it has come.
        constraint: what it may be, if not all is allowed.
        thinking: the budget of its reasoning, if it has one.
        endings: finds the end of what has a form.
    """

    def __init__(
        self,
        answer: Answer,
        constraint: Constraint | None = None,
        thinking: ThinkingBudget | None = None,
        endings: EndingFinder | None = None,
    ) -> None:
        self._answer = answer
        self._constraint = constraint
        self._thinking = thinking
        self._endings = endings
        self._horizon = max(answer.num_left // 2, LAST_TOKENS)
        self._found: tuple[int, Ending | None] = (-1, None)  # for the answer of so many tokens

    def forced(self) -> list[int]:
        """Return what must come next; nothing, as a rule, and then a token is to be chosen."""
        closing = self._thinking.closing(self._answer) if self._thinking else ()
        if closing and (not self._constraint or self._constraint.can_take(closing)):
            return list(closing)
        if not self._constraint:
            return []
        if forced := self._constraint.forced():
            return forced
        ending = self._ending(self._constraint)
        is_due = ending and not ending.fits(self._answer.num_left - 1, self._answer.num_bytes_left)
        return list(ending.token_ids) if ending and is_due else []

    def choose(self, sampler: Sampler, logits: NDArray[np.float32]) -> list[int]:
        """Return the next token; or the whole end, if there would be no room for it afterwards.

        Args:
            sampler: draws from what may come.
            logits: ``(vocab,)`` float32; overwritten.
        """
        if not self._constraint:
            return [sampler.sample(logits)]
        token_id = sampler.sample(logits, self._constraint.allowed())
        ending = self._ending(self._constraint)
        if not ending or self._can_end_after(token_id, self._constraint):
            return [token_id]
        token_ids = ending.token_ids or self._end_here()
        sampler.correct(token_ids[0])
        sampler.accept(token_ids[1:])
        return list(token_ids)

    def accept(self, token_ids: Sequence[int]) -> None:
        """Note what came next, after the answer has."""
        if self._constraint:
            self._constraint.accept(token_ids)
            if self._constraint.is_over:
                self._answer.ended = True

    def _ending(self, constraint: Constraint) -> Ending | None:
        """Return the end of the answer, if it is near its limit, and if there is one."""
        num_tokens, ending = self._found
        if not self._endings or not self._is_near_limit():
            return None
        if num_tokens != self._answer.num_tokens:
            ending = self._endings.find(constraint, self._answer.num_left)
            self._found = (self._answer.num_tokens, ending)
        return ending

    def _is_near_limit(self) -> bool:
        answer = self._answer
        return answer.num_left <= self._horizon or answer.num_bytes_left <= LAST_BYTES

    def _can_end_after(self, token_id: int, constraint: Constraint) -> bool:
        if not self._endings or token_id in self._endings.end_ids:
            return True
        num_left = self._answer.num_left - 1
        num_bytes_left = self._answer.num_bytes_left - self._endings.num_bytes([token_id])
        after = constraint.copy()
        after.accept([token_id])
        ending = self._endings.find(after, num_left)
        if not ending or not ending.fits(num_left, num_bytes_left):
            return False
        self._found = (self._answer.num_tokens + 1, ending)
        return True

    def _end_here(self) -> tuple[int, ...]:
        """Return the token that ends an answer which may end, but must not go on.

        Free text is not at its end, but cut, if there is no room for a call after it.
        """
        self._answer.is_cut = not self._answer.has_form
        return (min(self._endings.end_ids),) if self._endings else ()


class Guides:
    """Makes the guides of a model's answers.

    Args:
        prompter: has the tokenizer.
    """

    def __init__(self, prompter: Prompter) -> None:
        self._prompter = prompter
        self._constraints = Constraints(prompter)

    def make(self, request: ChatRequest, answer: Answer, *, enable_thinking: bool) -> Guide:
        """Return the guide of an answer that has not begun.

        Raises:
            UnsupportedSchemaError: the answer can't be held to what the request asks for.
        """
        can_think = enable_thinking and self._prompter.has_thinking
        reasoning: Reasoning = "possible" if can_think else "none"
        if answer.is_reasoning:
            reasoning = "open"
        constraint = self._constraints.compile(request, reasoning)
        num_thinking = request.thinking_budget
        if constraint and not constraint.is_complete:
            most = int(answer.num_left * REASONING_SHARE)
            num_thinking = most if num_thinking is None else min(num_thinking, most)
        thinking = None
        if num_thinking is not None:
            thinking = ThinkingBudget.of(self._prompter, num_thinking)
        return Guide(answer, constraint, thinking, self._endings if constraint else None)

    @cached_property
    def _endings(self) -> EndingFinder:
        return EndingFinder(self._prompter)
