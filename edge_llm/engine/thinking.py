"""How long a model may reason, and how its reasoning is ended."""

from dataclasses import dataclass

from edge_llm.engine.answer import Answer
from edge_llm.engine.prompt import Prompter

__all__ = ["ThinkingBudget"]


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """Most tokens of reasoning, and those that end it: a line of its own, the tag, a blank line."""

    num_tokens: int
    before_tag: tuple[int, ...]
    tag_and_after: tuple[int, ...]

    @classmethod
    def of(cls, prompter: Prompter, num_tokens: int) -> "ThinkingBudget | None":
        """Return the budget for a model; none if it has no tag for the end of reasoning."""
        if prompter.end_think_id is None:
            return None
        after = prompter.tokenize("\n\n")
        return cls(num_tokens, tuple(prompter.tokenize("\n")), (prompter.end_think_id, *after))

    def closing(self, answer: Answer) -> tuple[int, ...]:
        """Return the tokens that end the reasoning now; none if there is no need."""
        num_left = self.num_tokens - answer.num_reasoning_tokens
        if not answer.is_reasoning or num_left > len(self.before_tag):
            return ()
        return (*self.before_tag[: max(num_left, 0)], *self.tag_and_after)
