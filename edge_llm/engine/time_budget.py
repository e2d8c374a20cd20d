"""Keeping an answer to its time: it ends before its deadline, and on the end of a sentence.

How long a sentence will be, nobody knows before it ends. So text is held back until a sentence is
whole, and only then said: at the deadline what is still held can be left out, and nothing that was
said must be taken back. Going on until then costs nothing but computing, and may bring one more
sentence; so the answer is ended sooner only where another sentence can't be hoped for.

What can't be left out is the first sentence. When its time runs out, the engine makes the end of a
sentence likelier (``pressure``), and if even that is too late, the text is cut at a clause or a
word, and ends with an ellipsis.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge_llm.errors import ExpiredError
from edge_llm.protocol import FinishReason
from edge_llm.text.sentences import SentenceSplitter, ends_sentence, sentence_ends
from edge_llm.text.words import word_ends

__all__ = ["Speed", "TimeBudget"]

DELIVERY_S = 0.05  # from the last token to the client: socket, broker
SMOOTHING = 0.2  # weight of the newest token in the running mean
SHORTEST_SENTENCE = 2  # tokens: a word and its mark
LAST_TOKENS = 8  # so many before the deadline the first sentence is made to end
PRESSURE = 3.0  # added to the logits of its end, for each token that is missing to these
UNLIMITED_CHARS = 2**31
CLAUSE_END = re.compile("[,;:\u2013](?=\\s|$)|[—、\uff0c\uff1b\uff1a]")
ELLIPSIS = "…"


@dataclass(slots=True)
class Speed:
    """What a token takes: a running mean, kept by the engine from one answer to the next."""

    token_s: float = 0.0
    """Seconds; 0 until it is known."""

    def note(self, token_s: float) -> None:
        """Take what the latest token took."""
        weight = SMOOTHING if self.token_s else 1.0
        self.token_s += weight * (token_s - self.token_s)


class TimeBudget:
    """Says when the answer to one request must end, and what may be said of it.

    Args:
        budget_s: seconds from now in which the answer must be said.
        speed: the engine's, as known from earlier answers; this one adds to it.
        clock: gives the time, in seconds.
    """

    def __init__(
        self, budget_s: float, speed: Speed, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._deadline = clock() + budget_s - DELIVERY_S
        self._speed = speed
        # Only ends of sentences count; where to breathe in a long one is the receiver's to find.
        self._splitter = SentenceSplitter(min_chars=1, max_chars=UNLIMITED_CHARS)
        self._lines = ""  # that ended without a mark: verses, items of a list
        self._has_said = False
        self._num_tokens = 0  # of the sentence that is under way
        self._shortest: int | None = None  # sentence, in tokens
        self._ticked_at: float | None = None
        self._num_fed = 1  # tokens that came with the latest tick
        self._num_ticks, self._ticks_s = 0, 0.0

    @property
    def left_s(self) -> float:
        """Seconds until the answer must end."""
        return self._deadline - self._clock()

    @property
    def tokens_per_s(self) -> float | None:
        """The speed of this answer; none before its second token."""
        return self._num_ticks / self._ticks_s if self._ticks_s else None

    def tick(self, num_tokens: int = 1) -> None:
        """Note that a token has come just now, or some at once."""
        now = self._clock()
        if self._ticked_at is not None:
            self._speed.note((now - self._ticked_at) / self._num_fed)
            self._num_ticks += self._num_fed
            self._ticks_s += now - self._ticked_at
        self._ticked_at, self._num_fed = now, num_tokens

    def skip(self) -> None:
        """Leave the time until the next token out of account: the engine was held."""
        self._ticked_at = None

    def add(self, text: str) -> str:
        """Take the text of a token; return the sentences that are whole now, often none."""
        self._num_tokens += 1
        said = ""
        for sentence in self._splitter.add(text):
            self._lines += sentence
            if ends_sentence(self._lines.rstrip()):
                said, self._lines = said + self._lines, ""
        if said:
            self._has_said = True
            self._shortest = min(self._shortest or self._num_tokens, self._num_tokens)
            self._num_tokens = 0
        return said

    def is_over(self) -> bool:
        """Tell whether the next token would come too late, or could not end a sentence in time."""
        num_tokens = self.num_left()
        return num_tokens < 1 or (num_tokens < self._next_sentence() and self._is_whole())

    def pressure(self) -> float:
        """Return what to add to the logits of tokens that end a sentence, 0 as a rule."""
        num_missing = LAST_TOKENS - self.num_left()
        if num_missing <= 0 or self._has_said:
            return 0.0
        whole, rest = self._held()
        return 0.0 if whole or not rest.strip() else PRESSURE * num_missing

    def finish(self, reason: FinishReason) -> str:
        """Return the last of the text: the rest if it ended by itself, else of it what is whole.

        Raises:
            ExpiredError: the time was over, and there is no text at all.
        """
        whole, rest = self._held()
        if reason in ("stop", "tool_calls"):
            return whole + rest
        if whole or self._has_said:
            return whole
        if reason == "length":
            return rest
        if not rest.strip():
            raise ExpiredError("the time budget was over before the first word")
        return _cut(rest)

    def _held(self) -> tuple[str, str]:
        """Return what is held back, up to the end of its last sentence and from there on."""
        text = self._lines + self._splitter.pending
        ends = (end for end in reversed(sentence_ends(text)) if text[end - 1] != "\n")
        end = next(ends, 0)
        return text[:end], text[end:]

    def num_left(self) -> float:
        """Return how many tokens the time is enough for; any number, as long as that is unknown."""
        left_s = self.left_s
        if left_s <= 0:
            return 0.0
        return left_s / self._speed.token_s if self._speed.token_s else float("inf")

    def _is_whole(self) -> bool:
        whole, rest = self._held()
        return not rest.strip() and (self._has_said or bool(whole))

    def _next_sentence(self) -> float:
        """Return how many tokens the next sentence takes at least; fewer than any so far did."""
        return max((self._shortest or 0) / 4, SHORTEST_SENTENCE)


def _cut(text: str) -> str:
    """Cut an unfinished sentence at a clause, or before its last word, which may be half a one."""
    words = word_ends(text)
    text = (text[: words[-2]] if len(words) > 1 else text).rstrip()
    clauses = [mark.start() for mark in CLAUSE_END.finditer(text)]
    if clauses and clauses[-1] * 2 >= len(text):  # else more is lost than a cut clause is worth
        text = text[: clauses[-1]].rstrip()
    return text + ELLIPSIS
