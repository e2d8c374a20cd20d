"""The text of one answer as its tokens come: reasoning apart, and when it is over."""

from collections.abc import Iterable, Sequence

from edge_llm.engine.detokenize import Detokenizer, StopStrings
from edge_llm.engine.prompt import Prompter
from edge_llm.engine.time_budget import TimeBudget
from edge_llm.protocol import Delta, FinishReason

__all__ = ["Answer"]


class Answer:
    """Sorts tokens into reasoning and answer; ``ended`` when the model or a stop string says so.

    ``text`` is what has been said of the answer so far, without its reasoning, and without what a
    time budget holds back.

    Thinking tags are found by token id, so text that merely looks like one is text.

    Args:
        prompter: knows the tags, the end tokens and the bytes of all others.
        stop: strings that end the answer, and are not part of it; not looked for in reasoning.
        prompt_ids: some templates open the reasoning in the prompt.
        max_tokens: of reasoning and answer.
        max_bytes: the answer is over when it has more: one token too many shows that it was cut.
        budget: holds back text, and says when the time is over.
    """

    def __init__(
        self,
        prompter: Prompter,
        stop: Sequence[str],
        prompt_ids: Sequence[int] = (),
        *,
        max_tokens: int | None = None,
        max_bytes: int | None = None,
        budget: TimeBudget | None = None,
    ) -> None:
        self.ended = False
        self.text = ""
        self.num_tokens = 0
        self.finish_reason: FinishReason = "stop"
        self._prompter = prompter
        self._stop = StopStrings(stop)
        self._reasoning = _is_open(prompt_ids, prompter)
        self._max_tokens, self._max_bytes = max_tokens, max_bytes
        self._budget = budget
        self._num_bytes = 0
        self._begin()

    def _begin(self) -> None:
        self._detokenizer = Detokenizer(self._prompter.token_bytes)
        self._blank = True  # no white space goes before the first word
        self._gap = ""  # white space in the reasoning waits for a word after it

    def add(self, token_id: int) -> Delta:
        """Take the next token; return what can be said now, often one word, sometimes nothing."""
        self.num_tokens += 1
        if token_id in self._prompter.end_ids:
            self.ended = True
            return Delta(token_ids=(token_id,))
        if token_id in (self._prompter.think_id, self._prompter.end_think_id):
            self._reasoning = token_id == self._prompter.think_id
            self._begin()
            return Delta(token_ids=(token_id,))
        text = self._detokenizer.add(token_id)
        if self._blank:
            text = text.lstrip()
            self._blank = not text
        if self._reasoning:
            return Delta(reasoning=self._without_last_gap(text), token_ids=(token_id,))
        text, self.ended = self._stop.add(text)
        return Delta(text=self._say(text), token_ids=(token_id,))

    def add_all(self, token_ids: Iterable[int]) -> None:
        """Take tokens whose text has been said before."""
        for token_id in token_ids:
            self.add(token_id)

    def is_over(self) -> bool:
        """Tell whether there is no use in another token; ``finish_reason`` says why, then."""
        if self.ended:
            self.finish_reason = "stop"
        elif self._is_full():
            self.finish_reason = "length"
        elif self._budget and self._budget.is_over():
            self.finish_reason = "time_budget"
        else:
            return False
        return True

    def finish(self) -> str:
        """Return the last of the text, now that it is over: what was held back for some reason.

        Raises:
            ExpiredError: a time budget was over before there was any text.
        """
        rest = self._say(self._stop.finish())
        if self._budget:
            last = self._budget.finish(self.finish_reason)
            self.text += last
            rest += last
        return rest

    def _is_full(self) -> bool:
        if self._max_tokens is not None and self.num_tokens >= self._max_tokens:
            return True
        return self._max_bytes is not None and self._num_bytes > self._max_bytes

    def _say(self, text: str) -> str:
        """Return what can be said, now that this text has come."""
        self._num_bytes += len(text.encode())
        if self._budget:
            text = self._budget.add(text)
        self.text += text
        return text

    def _without_last_gap(self, text: str) -> str:
        text = self._gap + text
        said = text.rstrip()
        self._gap = text[len(said) :]
        return said


def _is_open(prompt_ids: Sequence[int], prompter: Prompter) -> bool:
    """Tell whether the prompt's last turn has begun to reason; earlier turns don't count."""
    marks = {prompter.think_id, prompter.end_think_id, *prompter.end_ids}
    last = next((token_id for token_id in reversed(prompt_ids) if token_id in marks), None)
    return last is not None and last == prompter.think_id
