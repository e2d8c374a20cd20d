"""How likely tokens were, in the shapes of OpenAI's dialects."""

from collections.abc import Sequence

from typing_extensions import TypedDict

from edge_llm.protocol import TokenLogprob, TopLogprob

__all__ = [
    "LegacyLogprobs",
    "TokenObject",
    "TopTokenObject",
    "make_legacy_logprobs",
    "make_token_objects",
]


class TopTokenObject(TypedDict):
    """A token that might have been chosen."""

    token: str
    logprob: float
    bytes: list[int]


class TokenObject(TopTokenObject):
    """A token that was chosen, and what else might have been."""

    top_logprobs: list[TopTokenObject]


class LegacyLogprobs(TypedDict):
    """The shape of legacy completions: a list for each property."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


def make_token_objects(tokens: Sequence[TokenLogprob]) -> list[TokenObject]:
    """Describe tokens as chat completions and responses do."""
    return [
        {
            "token": token.token,
            "logprob": token.logprob,
            "bytes": list(token.bytes),
            "top_logprobs": [_top(top) for top in token.top_logprobs],
        }
        for token in tokens
    ]


def make_legacy_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> LegacyLogprobs:
    """Describe tokens as legacy completions do.

    Args:
        tokens: in their order.
        offset: characters of the text before them.
    """
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    tops = [  # always with the token that was chosen, so that there may be one more than asked for
        {top.token: top.logprob for top in (*token.top_logprobs, token)} for token in tokens
    ]
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": tops if any(token.top_logprobs for token in tokens) else None,
        "text_offset": offsets,
    }


def _top(token: TopLogprob) -> TopTokenObject:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes)}
