"""The commands of ``edge-llm``, a file each."""

from edge_llm.cli.program import make_parser, run

__all__ = ["make_parser", "run"]
