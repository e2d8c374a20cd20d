"""``edge-llm watch``: what happens at a broker."""

import argparse
from typing import Any

from edge_llm.cli.common import add_broker, add_config, given, run_until_signalled
from edge_llm.log import set_up_log
from edge_llm.settings import load_settings

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    watch = commands.add_parser(
        "watch",
        help="see what happens at the broker",
        description="Show the nodes of a broker, the requests in hand and the latest replies; "
        "where the output is no terminal, one line for each thing that happens. It only reads; "
        "what visitors ask is shown, unless --no-texts. Ctrl-C ends it.",
    )
    add_config(watch)
    add_broker(watch)
    watch.add_argument("--seconds", type=float, metavar="N", help="end after this time")
    watch.add_argument(
        "--texts",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="show what is asked and answered",
    )
    watch.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    from edge_llm.watch import run_watch

    settings = load_settings(args.config, mqtt=given(host=args.host, port=args.port))
    set_up_log(settings.log.model_copy(update={"level": "warning"}))
    return run_until_signalled(run_watch(settings.mqtt, seconds=args.seconds, texts=args.texts))
