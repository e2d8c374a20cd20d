"""The training text of the built-in model: short dialogues from a seeded grammar."""

from edge_llm.tiny.grammar.dialogues import make_dialogues
from edge_llm.tiny.grammar.phrase import phrasing_key

__all__ = ["make_dialogues", "phrasing_key"]
