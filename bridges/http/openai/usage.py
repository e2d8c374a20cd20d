"""Counts of tokens as OpenAI's objects."""

from collections.abc import Sequence

from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from edge_llm.protocol import Usage

__all__ = ["UsageObject", "make_usage"]


class PromptTokensDetails(TypedDict):
    """What the prompt's tokens were."""

    cached_tokens: int


class CompletionTokensDetails(TypedDict):
    """What the answer's tokens were."""

    reasoning_tokens: int


class UsageObject(TypedDict):
    """What a request cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


def make_usage(usages: Sequence[Usage], per_prompt: int) -> UsageObject:
    """Add up the answers to one request, each prompt once.

    Args:
        usages: of each answer, those to the same prompt together.
        per_prompt: how many answers each prompt had.
    """
    prompts = usages[::per_prompt]
    prompt_tokens = sum(usage.prompt_tokens for usage in prompts)
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in prompts)},
        "completion_tokens_details": {
            "reasoning_tokens": sum(usage.reasoning_tokens for usage in usages)
        },
    }
