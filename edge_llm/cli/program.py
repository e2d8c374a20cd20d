"""The program: from its arguments to a command, and from an error to a line and an exit code."""

import argparse
import os
import sys

from edge_llm import __version__
from edge_llm.cli import (
    api_key,
    ask,
    bench,
    demo,
    doctor,
    export,
    fleet,
    home_assistant,
    http,
    model,
    mqtt_user,
    nats_user,
    serve,
    settings,
    watch,
)
from edge_llm.cli.common import SETTINGS_HELP
from edge_llm.errors import EdgeLLMError

__all__ = ["make_parser", "run"]

COMMANDS = (
    serve,
    demo,
    ask,
    watch,
    http,
    fleet,
    settings,
    model,
    api_key,
    mqtt_user,
    nats_user,
    doctor,
    bench,
    export,
    home_assistant,
)

BROKEN_PIPE = 141  # as a shell tells of a program that SIGPIPE ended

DESCRIPTION = """\
A language model for art installations: MQTT in, generated text out.

  edge-llm demo                     see it talk: broker, model and HTTP in one, nothing to install
  edge-llm serve                    serve the broker of this machine, and HTTP on port 8000
  edge-llm model list               which models there are for the card; model get NAME gets one
  edge-llm serve --model NAME|DIR   ... with a model of yours
  edge-llm ask "Who are you?"       ask a node over MQTT; the answer streams to the terminal
  edge-llm watch                    see what happens at the broker: nodes, requests, replies, errors
  edge-llm http --host BROKER       serve HTTP on this machine for a node that is on another one
  edge-llm fleet status             see many nodes behind one address; drain or upgrade them
  edge-llm settings                 print a settings file to begin with; --check FILE looks at yours
  edge-llm api-key NAME             make a key for HTTP, and the lines of settings that let it in
  edge-llm mqtt-user add esp1       make a device's account at mosquitto, and show what it needs
  edge-llm nats-user add esp1       make a device's account at the servers of a fleet
  edge-llm doctor                   say what is wrong with an installation, and the cure
  edge-llm bench --short            measure how fast a model is on this machine, in half a minute
  edge-llm export HF_DIR OUT        make a model directory of Hugging Face weights (Qwen2, Qwen3)
  edge-llm home-assistant --remove  take this node out of Home Assistant
"""


def run(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit code."""
    args = make_parser().parse_args(arguments)
    try:
        code = int(args.command(args))
        sys.stdout.flush()
        return code
    except EdgeLLMError as exc:
        return _fail(exc)
    except BrokenPipeError:  # as in "edge-llm model list | head", which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except BaseExceptionGroup as group:
        ours = group.subgroup(EdgeLLMError)
        if ours is None:
            raise
        return _fail(_first_leaf(ours))


def _fail(exc: BaseException) -> int:
    print(f"edge-llm: {exc}", file=sys.stderr)
    return 1


def _first_leaf(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands; each leaves its function as ``command``."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="edge-llm", description=DESCRIPTION, epilog=SETTINGS_HELP, formatter_class=raw
    )
    parser.add_argument("--version", action="version", version=f"edge-llm {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
