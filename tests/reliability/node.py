"""A node with shorter clocks: ``python -m tests.reliability.node SETTINGS.toml``.

All else is as ``edge-llm serve`` does it.
"""

import os
import sys
from pathlib import Path

from edge_llm.cli.common import run_until_signalled
from edge_llm.cli.serve import serve_for_ever
from edge_llm.log import set_up_log
from edge_llm.settings import Settings, load_settings
from tests.reliability.clocks import check_sections, quicken_core, quicken_settings
from tests.reliability.in_worker import FACTOR_VARIABLE

__all__ = ["main"]

MOST_ATTEMPTS = {"max_per_hour": 1200, "max_resets_per_hour": 600}
"""Twenty deaths of a card within some minutes are no hour of an installation."""


def main(path: Path) -> int:
    """Serve until stopped; return the exit code."""
    factor = float(os.environ[FACTOR_VARIABLE])
    check_sections()
    quicken_core(factor)

    def load() -> Settings:
        return quicken_settings(load_settings(path), factor, **MOST_ATTEMPTS)

    settings = load()
    set_up_log(settings.log)
    return run_until_signalled(serve_for_ever(settings, load))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
