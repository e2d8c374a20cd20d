"""What to leave out of a conversation that is longer than the context: its oldest turns.

A client sends the whole conversation each time, one turn longer than before. Were it cut to what
just fits, each turn would lose another one at its beginning, and no row of the KV cache could be
kept. So it is cut well below the context, and the cut must stay where it is for some turns. Nothing
remembers where it was: it is found again by going through the conversation as it grew, and cutting
it where it was too long then.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate

from edge_llm.protocol import Message

__all__ = ["Turns"]

KEPT_SHARE = 0.6  # of the context, after a cut


class Turns:
    """A conversation in turns: what a user says, with the answers to it.

    Args:
        conversation: system turns are counted, but are no part of the others.
        count_tokens: of a message.
        frame_tokens: what the chat template puts around a message; too few, and the cut would move
            once more a turn later.
        fixed_tokens: what stands in front of each prompt beside system turns.
    """

    def __init__(
        self,
        conversation: Sequence[Message],
        count_tokens: Callable[[Message], int],
        frame_tokens: int,
        fixed_tokens: int = 0,
    ) -> None:
        self._conversation = conversation
        self._starts: list[int] = []  # in the conversation
        self._sizes = [0]  # running sums
        self._question_sizes: list[int] = []
        # One frame more than there are: where the answer begins may have more than others.
        self._fixed_size = fixed_tokens + 2 * frame_tokens
        turn_sizes: list[int] = []
        for index, message in enumerate(conversation):
            size = count_tokens(message) + frame_tokens
            if message.role in ("system", "developer"):
                self._fixed_size += size
            elif message.role == "user" or not turn_sizes:
                self._starts.append(index)
                self._question_sizes.append(size)
                turn_sizes.append(size)
            else:
                turn_sizes[-1] += size
        self._sizes += accumulate(turn_sizes)

    @property
    def last(self) -> int:
        """The turn that can't be left out."""
        return max(len(self._starts) - 1, 0)

    def first_kept(self, context_len: int, room: int) -> int:
        """Return the first turn to keep, so that ``room`` tokens for the answer are left."""
        first = 0
        for turn in range(len(self._starts)):
            if self._size(first, turn) + room > context_len:
                while first < turn and self._size(first, turn) > KEPT_SHARE * context_len:
                    first += 1
        return first

    def since(self, first: int) -> tuple[Message, ...]:
        """Return the conversation without the turns before this one."""
        start = self._starts[first] if self._starts else 0
        return tuple(
            message
            for index, message in enumerate(self._conversation)
            if index >= start or message.role in ("system", "developer")
        )

    def _size(self, first: int, turn: int) -> int:
        """Count the tokens of the prompt as it was when this turn was asked."""
        before = self._sizes[turn] - self._sizes[first]
        return self._fixed_size + before + self._question_sizes[turn]
