"""``edge-llm ask``: a question to a node over MQTT."""

import argparse
import json
import sys
from contextlib import aclosing
from typing import Any

from edge_llm.cli.common import add_broker, add_config, given, run_until_signalled
from edge_llm.client import RemoteEngine
from edge_llm.log import set_up_log
from edge_llm.protocol import Delta, MqttRequest, validate
from edge_llm.settings import Settings, load_settings

__all__ = ["add"]


CONNECT_TIMEOUT_S = 10.0


def add(commands: Any) -> None:
    """Add the command."""
    ask = commands.add_parser(
        "ask",
        help="ask a node over MQTT",
        description="Ask a node over MQTT; the answer streams to the terminal. Ctrl-C cancels it.",
    )
    add_config(ask)
    add_broker(ask)
    ask.add_argument("prompt", help="what to ask; '-' reads it from the standard input")
    ask.add_argument("--node", metavar="NAME", help="the only node to ask")
    ask.add_argument("--preset", metavar="NAME", help="a persona of the node")
    ask.add_argument("--system", metavar="TEXT", help="who the model is to be")
    ask.add_argument("--max-tokens", type=int, metavar="N", help="longest answer")
    ask.add_argument("--temperature", type=float, metavar="T", help="0 is the likeliest answer")
    ask.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds of silence")
    ask.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    settings = load_settings(args.config, mqtt=given(host=args.host, port=args.port))
    set_up_log(settings.log.model_copy(update={"level": "error"}))
    return run_until_signalled(_ask_once(settings, args), interrupted=130)


async def _ask_once(settings: Settings, args: argparse.Namespace) -> None:
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    turns = [{"role": "system", "content": args.system}] if args.system else []
    said = {
        "messages": [*turns, {"role": "user", "content": prompt}],
        **given(max_tokens=args.max_tokens, temperature=args.temperature, preset=args.preset),
    }
    request = validate(MqttRequest, json.dumps(said))
    remote = RemoteEngine(
        settings.mqtt,
        node=args.node,
        connect_timeout_s=min(args.timeout, CONNECT_TIMEOUT_S),
        silence_timeout_s=args.timeout,
    )
    async with remote, aclosing(remote.generate(request)) as events:
        async for event in events:
            if isinstance(event, Delta):
                print(event.text, end="", flush=True)
        print()
