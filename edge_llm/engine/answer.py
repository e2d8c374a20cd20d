"""The text of one answer as its tokens come: reasoning apart, ended by a token or a string."""

from collections.abc import Iterable, Sequence

from edge_llm.engine.detokenize import Detokenizer, StopStrings
from edge_llm.engine.prompt import Prompter
from edge_llm.protocol import Delta

__all__ = ["Answer"]


class Answer:
    """Sorts tokens into reasoning and answer; ``ended`` when the model or a stop string says so.

    ``text`` is what has been said of the answer so far, without its reasoning.

    Thinking tags are found by token id, so text that merely looks like one is text.

    Args:
        prompter: knows the tags, the end tokens and the bytes of all others.
        stop: strings that end the answer, and are not part of it; not looked for in reasoning.
        prompt_ids: some templates open the reasoning in the prompt.
    """

    def __init__(
        self, prompter: Prompter, stop: Sequence[str], prompt_ids: Sequence[int] = ()
    ) -> None:
        self.ended = False
        self.text = ""
        self._prompter = prompter
        self._stop = StopStrings(stop)
        self._reasoning = _is_open(prompt_ids, prompter)
        self._begin()

    def _begin(self) -> None:
        self._detokenizer = Detokenizer(self._prompter.token_bytes)
        self._blank = True  # no white space goes before the first word
        self._gap = ""  # white space in the reasoning waits for a word after it

    def add(self, token_id: int) -> Delta:
        """Take the next token; return what can be said now, often one word, sometimes nothing."""
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
        self.text += text
        return Delta(text=text, token_ids=(token_id,))

    def add_all(self, token_ids: Iterable[int]) -> None:
        """Take tokens whose text has been said before."""
        for token_id in token_ids:
            self.add(token_id)

    def finish(self) -> str:
        """Return what was held back for a stop string that did not come."""
        rest = self._stop.finish()
        self.text += rest
        return rest

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
