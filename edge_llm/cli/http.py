"""``edge-llm http``: HTTP here for a node that is elsewhere."""

import argparse
import asyncio
import functools
from typing import Any

from edge_llm.cli.common import SETTINGS_HELP, add_broker, add_config, given, run_until_signalled
from edge_llm.client import RemoteEngine
from edge_llm.errors import ConfigurationError
from edge_llm.log import log_exposures, set_up_log
from edge_llm.plugin import BridgeContext
from edge_llm.preset import Presets
from edge_llm.settings import Settings, load_settings

__all__ = ["add"]


CONNECT_TIMEOUT_S = 2.0  # after a start or a break; a client that is told 503 comes back


def add(commands: Any) -> None:
    """Add the command."""
    http = commands.add_parser(
        "http",
        help="serve HTTP for a node on another machine",
        description="Serve HTTP on this machine for a node behind a broker: for programs that\n"
        "can't reach the node, or a node whose own HTTP is switched off. While no node is\n"
        "there, requests are answered with 503 node_offline at once. Ctrl-C or SIGTERM ends it.",
        epilog=SETTINGS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config(http)
    add_broker(http)
    http.add_argument(
        "--node", metavar="NAME", help="the only node to ask; else whichever is there"
    )
    http.add_argument(
        "--fleet",
        action="store_true",
        help="the nodes are a fleet: each request is for whichever has room; see docs/fleet.md",
    )
    http.add_argument(
        "--http-host", metavar="ADDRESS", help="address to listen on; 0.0.0.0 for all"
    )
    http.add_argument("--http-port", type=int, metavar="PORT", help="port to listen on; 0 for any")
    http.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    settings = load_settings(
        args.config,
        mqtt=given(host=args.host, port=args.port),
        http=given(host=args.http_host, port=args.http_port),
    )
    if args.fleet and args.node:
        raise ConfigurationError("give either --fleet or --node", param="node")
    set_up_log(settings.log)
    log_exposures(settings)
    return run_until_signalled(_bridge_http(settings, args.node, is_fleet=args.fleet))


async def _bridge_http(settings: Settings, node: str | None, *, is_fleet: bool) -> None:
    from bridges.http import open_http

    # HTTP's clients retry by themselves, and show what they wait for.
    remote = RemoteEngine(
        settings.mqtt, node=node, connect_timeout_s=CONNECT_TIMEOUT_S, retries=0, is_fleet=is_fleet
    )
    presets = functools.partial(Presets, settings.preset, settings.default_preset)
    name = node or ("fleet" if is_fleet else "any")
    context = BridgeContext(name, remote, settings.mqtt, presets, is_in_fleet=is_fleet)
    async with remote, open_http(settings.http, context):
        await asyncio.Event().wait()
