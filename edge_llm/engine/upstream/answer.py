"""What may be said of an answer that another server generates, and when it is over.

The server has stop strings and a limit of tokens; some ignore the strings, so they are looked for
here as well. Limits of bytes and of time no server has.
"""

from edge_llm.engine.detokenize import StopStrings
from edge_llm.engine.time_budget import TimeBudget
from edge_llm.engine.upstream.parse import parse_json
from edge_llm.errors import UpstreamError
from edge_llm.protocol import ChatRequest, Delta, FinishReason

__all__ = ["UpstreamAnswer"]


class UpstreamAnswer:
    """The text of one answer as it comes in.

    Args:
        request: has the limits.
        budget: holds back text, and says when the time is over.
    """

    def __init__(self, request: ChatRequest, budget: TimeBudget | None) -> None:
        self._choices = request.choices
        self._stop = StopStrings(request.stop or ())
        self._max_bytes = request.max_bytes
        self._budget = budget
        self._num_bytes = 0
        self._chosen = ""  # a JSON string, as far as it has come
        self._has_stopped = False

    def add(self, delta: Delta) -> Delta:
        """Take what came; return what can be said now, often less."""
        if self._budget and (delta.text or delta.reasoning):
            self._budget.tick()
        if self._choices is not None:
            self._chosen += delta.text
            return delta.model_copy(update={"text": ""})
        text, self._has_stopped = self._stop.add(delta.text)
        return delta.model_copy(update={"text": self._say(text)})

    def ended_by(self) -> FinishReason | None:
        """Tell why there is no use in more text; none as long as there is."""
        if self._has_stopped:
            return "stop"
        if self._max_bytes is not None and self._num_bytes > self._max_bytes:
            return "length"
        return "time_budget" if self._budget and self._budget.is_over() else None

    def finish(self, reason: FinishReason) -> str:
        """Return the last of the text: what was held back for some reason.

        Raises:
            ExpiredError: a time budget was over before there was any text.
            UpstreamError: the answer is none of the choices.
        """
        if self._choices is not None and reason != "time_budget":
            return self._choice(self._choices)
        rest = self._say(self._stop.finish())
        if self._budget:
            rest += self._budget.finish("stop" if reason == "tool_calls" else reason)
        return rest

    def _say(self, text: str) -> str:
        self._num_bytes += len(text.encode(errors="replace"))
        return self._budget.add(text) if self._budget and text else text

    def _choice(self, choices: tuple[str, ...]) -> str:
        try:
            chosen = parse_json(self._chosen)
        except ValueError:
            chosen = self._chosen
        if chosen not in choices:
            raise UpstreamError(f"the server answered {self._chosen[:60]!r}, which is no choice")
        return str(chosen)
