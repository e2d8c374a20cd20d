"""The program: from its arguments to a command, and from an error to a line and an exit code."""

import argparse
import sys

from edge_llm import __version__
from edge_llm.cli import api_key, ask, demo, doctor, export, home_assistant, http, serve, watch
from edge_llm.cli.common import SETTINGS_HELP
from edge_llm.errors import EdgeLLMError

__all__ = ["make_parser", "run"]

COMMANDS = (serve, demo, ask, watch, http, api_key, doctor, export, home_assistant)

DESCRIPTION = """\
A language model for art installations: MQTT in, generated text out.

  edge-llm demo                     see it talk: broker, model and HTTP in one, nothing to install
  edge-llm serve                    serve the broker of this machine, and HTTP on port 8000
  edge-llm serve --model DIR        ... with a model of yours
  edge-llm ask "Who are you?"       ask a node over MQTT; the answer streams to the terminal
  edge-llm watch                    see what happens at the broker: nodes, requests, replies, errors
  edge-llm http --host BROKER       serve HTTP on this machine for a node that is on another one
  edge-llm api-key NAME             make a key for HTTP, and the lines of settings that let it in
  edge-llm doctor --model DIR       say what a model needs, and how fast it will be
  edge-llm export HF_DIR OUT        make a model directory of Hugging Face weights (Qwen2, Qwen3)
  edge-llm home-assistant --remove  take this node out of Home Assistant
"""


def run(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit code."""
    args = make_parser().parse_args(arguments)
    try:
        return int(args.command(args))
    except EdgeLLMError as exc:
        return _fail(exc)
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
