"""``edge-llm demo``: broker, model and HTTP in one."""

import argparse
from typing import Any

from edge_llm.cli.common import add_config, run_until_signalled
from edge_llm.log import set_up_log
from edge_llm.settings import load_settings

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    demo = commands.add_parser(
        "demo",
        help="see it talk: broker, model and HTTP in one",
        description="Start a broker, the built-in model and HTTP on this machine, ask one question "
        "over MQTT, and serve until Ctrl-C. Ports that are taken are replaced by free ones.",
    )
    add_config(demo)
    demo.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    from edge_llm.demo import run_demo

    settings = load_settings(args.config)
    set_up_log(settings.log.model_copy(update={"level": "warning"}))
    return run_until_signalled(run_demo(settings))
