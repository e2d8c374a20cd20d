"""From a conversation to token ids: the model's chat template, what fits, and what stays text."""

from edge_llm.engine.prompt.prompter import Prompter, load_prompter

__all__ = ["Prompter", "load_prompter"]
