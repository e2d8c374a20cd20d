"""``edge-llm serve``: MQTT and HTTP until stopped."""

import argparse
import asyncio
import functools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_llm.cli.common import SETTINGS_HELP, add_config, run_until_signalled
from edge_llm.log import set_up_log
from edge_llm.settings import Settings, load_settings

__all__ = ["add", "serve_for_ever"]


def add(commands: Any) -> None:
    """Add the command."""
    serve = commands.add_parser(
        "serve",
        help="serve MQTT and HTTP until stopped",
        description="Serve MQTT and HTTP until stopped (Ctrl-C or SIGTERM).",
        epilog=SETTINGS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config(serve)
    serve.add_argument(
        "--model",
        type=Path,
        metavar="NAME|DIR",
        help="model to serve: a directory, or a name of 'edge-llm model list'",
    )
    serve.add_argument("--paced", action="store_true", help="rehearse: a fixed text at a set speed")
    serve.add_argument("--no-mqtt", action="store_true", help="serve HTTP only")
    serve.add_argument("--no-http", action="store_true", help="serve MQTT only")
    serve.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    worker = {"model": args.model} if args.model else {}
    kind = {"kind": "paced"} if args.paced else {}
    load = functools.partial(
        load_settings,
        args.config,
        engine={**kind, "worker": worker},
        mqtt={"enabled": False} if args.no_mqtt else {},
        http={"enabled": False} if args.no_http else {},
    )
    settings = load()
    set_up_log(settings.log)
    return run_until_signalled(serve_for_ever(settings, load))


async def serve_for_ever(settings: Settings, load: Callable[[], Settings]) -> None:
    """Serve until cancelled, and keep systemd informed.

    Args:
        settings: as read at the start.
        load: reads them anew, for SIGHUP.
    """
    from edge_llm.node import open_node
    from edge_llm.store import store_path
    from edge_llm.systemd import Notifier, reloading

    store = store_path(settings.store, settings.node)
    async with open_node(settings, load, store=store) as node:

        def reload() -> None:
            with reloading():
                node.reload()

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        notifier = Notifier(
            is_ready=lambda: node.is_ready,
            status=lambda: node.status,
            is_alive=lambda: node.trouble,
            progress=lambda: node.progress,
        )
        await notifier.run()
