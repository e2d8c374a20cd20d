"""``edge-llm home-assistant``: the node taken out of Home Assistant."""

import argparse
from typing import Any

from edge_llm.cli.common import add_broker, add_config, given, run_until_signalled
from edge_llm.log import set_up_log
from edge_llm.settings import Settings, load_settings

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    home_assistant = commands.add_parser(
        "home-assistant",
        help="take a node out of Home Assistant",
        description="Take a node out of Home Assistant: its announcement is cleared at the broker, "
        "and the device goes with its entities. Before that, set enabled = false in "
        "[home_assistant] and restart the node, or it announces itself again.",
    )
    add_config(home_assistant)
    add_broker(home_assistant)
    home_assistant.add_argument(
        "--node", metavar="NAME", help="the node to remove; this one if not given"
    )
    home_assistant.add_argument("--remove", action="store_true", required=True, help="remove it")
    home_assistant.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    settings = load_settings(
        args.config, mqtt=given(host=args.host, port=args.port), **given(node=args.node)
    )
    set_up_log(settings.log.model_copy(update={"level": "warning"}))
    return run_until_signalled(_remove_from_home_assistant(settings), interrupted=130)


async def _remove_from_home_assistant(settings: Settings) -> None:
    from bridges.home_assistant import remove_from_home_assistant

    is_gone = await remove_from_home_assistant(
        settings.home_assistant, settings.mqtt, settings.node
    )
    where = f"at {settings.mqtt.host}:{settings.mqtt.port}"
    if is_gone:
        print(f"{settings.node} is removed from Home Assistant {where}")
    else:
        print(f"there is nothing to remove: {settings.node} is not announced {where}")
