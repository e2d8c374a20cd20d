"""What others typed, so that it stays text: no control token of a prompt comes from it.

A tokenizer reads ``<|im_end|>`` as the token wherever it stands. Who could say that could end their
turn and speak as somebody else. So whatever goes into a chat template from outside is broken at
such places, by a character of no width; the model still sees what was meant.
"""

from typing import Any

__all__ = ["Harmless"]

BREAK = "\u200b"  # the zero-width space: part of no token that has a role
THINK, END_THINK = "<think>", "</think>"


class Harmless:
    """Breaks what would be tokens of a role.

    Args:
        tokenizer: by transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokens = tuple(tokenizer.get_added_vocab())
        normalizer = tokenizer.backend_tokenizer.normalizer
        is_late = any(token.normalized for token in tokenizer.added_tokens_decoder.values())
        # Most are looked for in the text as it came; some in what the tokenizer makes of it.
        self._normalize = normalizer.normalize_str if normalizer and is_late else None

    def text(self, text: str) -> str:
        """Return a text without control tokens."""
        if self._normalize and self._has_token(normalized := self._normalize(text)):
            text = normalized
        for token in self._tokens:
            if token in text:
                text = text.replace(token, f"{token[:1]}{BREAK}{token[1:]}")
        return text

    def answer(self, text: str) -> str:
        """Return an earlier answer; it may begin with thinking, which the template takes out."""
        before, opened, rest = text.partition(THINK)
        thoughts, closed, said = rest.partition(END_THINK)
        if not (opened and closed) or before.strip():
            return self.text(text)
        return f"{before}{THINK}{self.text(thoughts)}{END_THINK}{self.text(said)}"

    def value(self, value: Any) -> Any:
        """Return a JSON value with all its strings, names too, without control tokens."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.value(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return value

    def _has_token(self, text: str) -> bool:
        return any(token in text for token in self._tokens)
