"""One answer as its tokens come: text, reasoning and calls apart, and when it is over."""

from collections.abc import Iterable, Sequence

from edge_llm.engine.detokenize import Detokenizer, StopStrings
from edge_llm.engine.prompt import Prompter
from edge_llm.engine.time_budget import TimeBudget
from edge_llm.engine.tool_calls import CallIds, ToolCalls
from edge_llm.protocol import Delta, FinishReason, TokenLogprob, ToolCallDelta

__all__ = ["Answer"]

SPARE = 2  # tokens, as no time budget is known to the token
AFTER_REASONING = "\n\n"  # the grammar wants it between reasoning and a form


class Answer:
    """Sorts tokens into reasoning, text and calls; ``ended`` when it is over by itself.

    ``text`` is what has been said of the answer so far, without its reasoning, and without what a
    time budget holds back.

    Tags are found by token id, so text that merely looks like one is text.

    Args:
        prompter: knows the tags, the end tokens and the bytes of all others.
        stop: strings that end the answer, and are not part of it; looked for in text only, also
            in that of a form, which they leave incomplete.
        prompt_ids: some templates open the reasoning in the prompt.
        max_tokens: of reasoning and answer.
        max_bytes: the answer is over when it has more: one token too many shows that it was cut.
        budget: holds back text, and says when the time is over.
        has_form: it is JSON or the like, which is said as it stands and as it comes: white space
            is part of it, and it can't be cut at the end of a sentence.
        call_ids: names of the calls, where tools may be called.
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
        has_form: bool = False,
        call_ids: CallIds | None = None,
    ) -> None:
        self.ended = self.is_cut = False
        self.has_form = has_form
        self.text = ""
        self.tool_calls: list[ToolCallDelta] = []
        """Their pieces so far."""
        self.num_tokens = self.num_reasoning_tokens = 0
        self.finish_reason: FinishReason = "stop"
        self.is_reasoning = prompter.opens_reasoning(prompt_ids)
        self._prompter = prompter
        self._stop = StopStrings(stop)
        self._max_tokens, self._max_bytes = max_tokens, max_bytes
        self._budget = budget
        self._calls = ToolCalls(prompter, call_ids) if call_ids else None
        self._num_bytes = 0
        self._held_logprobs: tuple[TokenLogprob, ...] = ()  # their text is held back
        self._begin()

    def _begin(self) -> None:
        self._detokenizer = Detokenizer(self._prompter.token_bytes)
        # No white space goes before the first word, but a form may begin with some.
        self._blank = self.is_reasoning or not self.has_form
        self._skipped = "" if self._blank or not self.num_tokens else AFTER_REASONING
        self._gap = ""  # white space that is said only if a word comes after it

    @property
    def num_left(self) -> float:
        """How many tokens there may still be; any number, as long as nothing limits them."""
        num_left = float("inf") if self._max_tokens is None else self._max_tokens - self.num_tokens
        return min(num_left, self._budget.num_left() - SPARE) if self._budget else num_left

    @property
    def is_prose(self) -> bool:
        """Whether it is in the middle of text that may end with any sentence."""
        return not (self.has_form or self.is_reasoning or self.is_calling)

    @property
    def num_bytes_left(self) -> float:
        """How many bytes what has a form may still have."""
        if self._max_bytes is None or not self.has_form or self.is_calling:
            return float("inf")
        return self._max_bytes - self._num_bytes

    @property
    def is_calling(self) -> bool:
        """Whether it is in the middle of a call."""
        return self._calls is not None and self._calls.is_open

    def add(self, token_id: int, logprob: TokenLogprob | None = None) -> Delta:
        """Take the next token; return what can be said now, often one word, sometimes nothing."""
        self.num_tokens += 1
        if token_id in self._prompter.end_ids:
            self.ended = True
            return Delta(token_ids=(token_id,))
        if token_id in (self._prompter.think_id, self._prompter.end_think_id):
            self.is_reasoning = token_id == self._prompter.think_id
            self._begin()
            return Delta(token_ids=(token_id,))
        if self.is_reasoning:
            self.num_reasoning_tokens += 1
            text = self._without_last_gap(self._text_of(token_id))
            return Delta(reasoning=text, token_ids=(token_id,))
        if self._calls and (pieces := self._calls.add(token_id)) is not None:
            return self._add_to_call(token_id, pieces)
        return self._add_text(token_id, logprob)

    def _add_to_call(self, token_id: int, pieces: tuple[ToolCallDelta, ...]) -> Delta:
        self.tool_calls += pieces
        text = self._say(self._without_last_gap(self._stop.finish()))
        self._gap = ""  # white space between text and a call is not said
        logprobs, self._held_logprobs = self._held_logprobs, ()
        return Delta(text=text, tool_calls=pieces, logprobs=logprobs, token_ids=(token_id,))

    def _add_text(self, token_id: int, logprob: TokenLogprob | None) -> Delta:
        text = self._text_of(token_id)
        if logprob and self._counts(token_id):
            self._held_logprobs += (logprob,)
        text, self.ended = self._stop.add(text)
        if self._calls:
            text = self._without_last_gap(text)
        logprobs: tuple[TokenLogprob, ...] = ()
        if not self._stop.is_holding and not self.ended:
            logprobs, self._held_logprobs = self._held_logprobs, ()
        return Delta(text=self._say(text), logprobs=logprobs, token_ids=(token_id,))

    def add_run(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob] | None = None
    ) -> Delta:
        """Take tokens that came together, until one of them ends the answer."""
        deltas: list[Delta] = []
        for number, token_id in enumerate(token_ids):
            if deltas and self.is_over():
                break
            deltas.append(self.add(token_id, logprobs[number] if logprobs else None))
        return _joined(deltas)

    def add_all(self, token_ids: Iterable[int]) -> None:
        """Take tokens whose text has been said before."""
        for token_id in token_ids:
            self.add(token_id)

    def is_over(self) -> bool:
        """Tell whether there is no use in another token; ``finish_reason`` says why, then."""
        if self.ended and not self.is_cut:
            self.finish_reason = "stop"
        elif self.is_cut or self._is_full():
            self.finish_reason = "length"
        elif self._budget and self._is_late(self._budget):
            self.finish_reason = "time_budget"
        else:
            return False
        if self._calls and self._calls.num_begun and not self._calls.is_open:
            self.finish_reason = "tool_calls"
        return True

    def finish(self) -> Delta:
        """Return the last of the answer, now that it is over: what was held back for some reason.

        Raises:
            ExpiredError: a time budget was over before there was any text.
        """
        has_calls = self._calls is not None and self._calls.num_begun > 0
        rest = "" if self.is_reasoning or has_calls else self._gap + self._stop.finish()
        rest = self._say(rest)
        if self._budget and not (self.has_form and self.text):
            last = self._budget.finish("tool_calls" if has_calls else self.finish_reason)
            self.text += last
            rest += last
        logprobs = () if self.ended and self._stop.has_come else self._held_logprobs
        return Delta(text=rest, logprobs=logprobs)

    def _is_full(self) -> bool:
        if self._max_tokens is not None and self.num_tokens >= self._max_tokens:
            return True
        return self._max_bytes is not None and self._num_bytes > self._max_bytes

    def _is_late(self, budget: TimeBudget) -> bool:
        if self.has_form or self.is_calling:
            return budget.num_left() < 1
        return budget.is_over()

    def _say(self, text: str) -> str:
        """Return what can be said, now that this text has come."""
        self._num_bytes += len(text.encode())
        if self._budget and not self.has_form:
            text = self._budget.add(text)
        self.text += text
        return text

    def _text_of(self, token_id: int) -> str:
        text = self._detokenizer.add(token_id)
        while text and self._skipped:
            self._skipped, text = self._skipped[1:], text[1:]
        if self._blank:
            text = text.lstrip()
            self._blank = not text
        return text

    def _counts(self, token_id: int) -> bool:
        """Tell whether a token is one of the text, and not of the white space around it."""
        if self._calls and self._calls.num_begun:
            return False
        return bool(not self._blank or self._prompter.token_bytes[token_id].strip())

    def _without_last_gap(self, text: str) -> str:
        text = self._gap + text
        said = text.rstrip()
        self._gap = text[len(said) :]
        return said


def _joined(deltas: Sequence[Delta]) -> Delta:
    """Put the deltas of a run of tokens together."""
    if len(deltas) == 1:
        return deltas[0]
    return Delta(
        text="".join(delta.text for delta in deltas),
        reasoning="".join(delta.reasoning for delta in deltas),
        tool_calls=_joined_calls([piece for delta in deltas for piece in delta.tool_calls]),
        logprobs=tuple(each for delta in deltas for each in delta.logprobs),
        token_ids=tuple(token_id for delta in deltas for token_id in delta.token_ids),
    )


def _joined_calls(pieces: Sequence[ToolCallDelta]) -> tuple[ToolCallDelta, ...]:
    """Join what is added to the same arguments; the first piece of a call stays apart."""
    made: list[ToolCallDelta] = []
    for piece in pieces:
        if made and not piece.id and not made[-1].id and made[-1].index == piece.index:
            arguments = made[-1].arguments + piece.arguments
            made[-1] = made[-1].model_copy(update={"arguments": arguments})
        else:
            made.append(piece)
    return tuple(made)
