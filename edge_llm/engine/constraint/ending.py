"""The shortest way to the end of an answer that has a form.

It is found by trying: from the state as it is, the token that closes most is taken again and again,
until the answer may end. That is not always the shortest way there is, but it is a short one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge_llm.engine.constraint.masks import Constraint
from edge_llm.engine.prompt import Prompter

__all__ = ["Ending", "EndingFinder"]

OUTSIDE = b'@}]",10'
"""What is tried first outside of a string: what an address needs, brackets, the end of a string
that may have none in it, the next thing, and then a number; 1 is good for months and days too."""
INSIDE = b'"10a'
MAX_ONES = 4  # of a year; more make no number a multiple of ten
LONGEST = 256  # tokens; to find a longer end takes longer than it is worth


@dataclass(frozen=True, slots=True)
class Ending:
    """Tokens that bring an answer to its end."""

    token_ids: tuple[int, ...]
    num_bytes: int

    def fits(self, num_tokens: float, num_bytes: float) -> bool:
        """Tell whether it needs no more than that."""
        return len(self.token_ids) <= num_tokens and self.num_bytes <= num_bytes


class EndingFinder:
    """Finds the ends of answers of one model."""

    def __init__(self, prompter: Prompter) -> None:
        self._token_bytes = prompter.token_bytes
        self.end_ids = prompter.end_ids
        single = {data: token_id for token_id, data in enumerate(prompter.token_bytes)}
        tags = (prompter.end_call_id, prompter.end_think_id)
        self._tags: list[int] = [token_id for token_id in tags if token_id is not None]
        self._outside, self._inside = (
            [single[bytes([byte])] for byte in order if bytes([byte]) in single]
            for order in (OUTSIDE, INSIDE)
        )
        self._one = single.get(b"1")
        self._brackets = [single[mark] for mark in (b"}", b"]") if mark in single]

    def find(self, constraint: Constraint, most: float) -> Ending | None:
        """Return an end of at most so many tokens; None if it looks as if there were none."""
        state = constraint.copy()
        token_ids: list[int] = []
        while not state.is_complete:
            found = state.forced() or [self._closing(state, token_ids)]
            state.accept(found)
            token_ids += found
            if len(token_ids) > min(most, LONGEST):
                return None
        return Ending(tuple(token_ids), self.num_bytes(token_ids))

    def num_bytes(self, token_ids: Iterable[int]) -> int:
        """Count the bytes of tokens."""
        return sum(len(self._token_bytes[token_id]) for token_id in token_ids)

    def _closing(self, state: Constraint, before: Sequence[int]) -> int:
        # Both brackets may come inside of a string only.
        is_inside = all(state.can_take([token_id]) for token_id in self._brackets)
        ones = [self._one] * MAX_ONES
        # Asking for single tokens costs much less than a mask.
        for token_id in (*self._tags, *(self._inside if is_inside else self._outside)):
            has_enough = token_id == self._one and before[-MAX_ONES:] == ones
            if state.can_take([token_id]) and not has_enough:
                return token_id
        return int(state.allowed().argmax())
