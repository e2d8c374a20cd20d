"""Answers that keep to a form: what may come next, and the shortest way to an end."""

from edge_llm.engine.constraint.ending import Ending, EndingFinder
from edge_llm.engine.constraint.grammar import Reasoning
from edge_llm.engine.constraint.masks import Constraint, Constraints

__all__ = ["Constraint", "Constraints", "Ending", "EndingFinder", "Reasoning"]
