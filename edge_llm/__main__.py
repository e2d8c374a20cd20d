"""``python -m edge_llm``."""

import sys

from edge_llm.cli import run

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    sys.exit(run())


if __name__ == "__main__":
    main()
