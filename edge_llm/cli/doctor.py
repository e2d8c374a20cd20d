"""``edge-llm doctor``: the broker, a model and the card, examined."""

import argparse
import asyncio
from pathlib import Path
from typing import Any

from edge_llm.cli.common import add_config
from edge_llm.log import set_up_log
from edge_llm.settings import Settings, load_settings

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    doctor = commands.add_parser(
        "doctor",
        help="examine the broker, a model and the card",
        description="Say of the broker whether it lets us in and how much it keeps; of a model "
        "directory: is it complete, what geometry it has, what memory it needs, what runs it, how "
        "fast it will be.",
    )
    add_config(doctor)
    doctor.add_argument("--model", type=Path, metavar="DIR", help="model directory to examine")
    doctor.add_argument(
        "--load",
        action="store_true",
        help="load all of it, and find out how the card can be driven; stop the service before",
    )
    doctor.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    from edge_llm.engine.doctor import examine
    from edge_llm.engine.model import ModelDirectory
    from edge_llm.tiny import MODEL_DIR

    settings = load_settings(args.config)
    set_up_log(settings.log.model_copy(update={"level": "warning"}))
    if settings.mqtt.enabled:
        asyncio.run(_examine_broker(settings))
    worker = settings.engine.worker
    directory = ModelDirectory(args.model or worker.model or MODEL_DIR)
    for heading, text in examine(directory, worker, load=args.load):
        print(f"{heading:<11}{text}", flush=True)
    return 0


async def _examine_broker(settings: Settings) -> None:
    from edge_llm.broker_doctor import examine_broker

    async for heading, text in examine_broker(settings):
        print(f"{heading:<11}{text}", flush=True)
