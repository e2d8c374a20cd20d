"""What commands have in common: arguments, and a clean end."""

import argparse
import asyncio
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

__all__ = ["SETTINGS_HELP", "add_broker", "add_config", "given", "run_until_signalled"]

SETTINGS_HELP = """\
Settings come from a TOML file (--config) and from the environment, which wins:

  node = "stage-left"               EDGE_LLM_NODE=stage-left
  [mqtt]
  host = "broker.local"             EDGE_LLM_MQTT__HOST=broker.local
  username = "llm"                  EDGE_LLM_MQTT__USERNAME=llm
  [http]
  port = 8080                       EDGE_LLM_HTTP__PORT=8080
  [engine]
  max_tokens = 120                  EDGE_LLM_ENGINE__MAX_TOKENS=120
  [engine.worker]
  model = "/srv/qwen3-0.6b"         EDGE_LLM_ENGINE__WORKER__MODEL=/srv/qwen3-0.6b
"""


def add_broker(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for a broker."""
    parser.add_argument("--host", help="the broker's address")
    parser.add_argument("--port", type=int, help="the broker's port")


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the argument for a settings file."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file (TOML)")


def given(**arguments: object) -> dict[str, object]:
    """Return the arguments that were given; the others are for the settings to say."""
    return {name: value for name, value in arguments.items() if value is not None}


def run_until_signalled(main: Coroutine[Any, Any, None], *, interrupted: int = 0) -> int:
    """Run until the end, or until Ctrl-C or SIGTERM cancels it; both end it cleanly."""

    async def runner() -> int:
        task = asyncio.ensure_future(main)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            return interrupted
        return 0

    return asyncio.run(runner())
