"""``edge-llm api-key``: a key for HTTP."""

import argparse
import json
import sys
from typing import Any

from pydantic import ValidationError

from edge_llm.errors import ConfigurationError
from edge_llm.settings import ApiKeySettings, describe

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    api_key = commands.add_parser(
        "api-key",
        help="make a key for HTTP",
        description="Make a key for HTTP at random. It is shown once; the settings hold no more of "
        "it than its SHA-256. As soon as there is a key, requests without one are refused.",
    )
    api_key.add_argument("name", metavar="NAME", help="whose it is, for the log")
    api_key.add_argument("--per-min", type=float, metavar="N", help="most requests in a minute")
    api_key.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    from bridges.http import hash_key, make_key

    key = make_key()
    try:
        settings = ApiKeySettings(
            name=args.name, sha256=hash_key(key), requests_per_min=args.per_min
        )
    except ValidationError as exc:
        raise ConfigurationError(describe(exc)) from exc
    print(f"The key of {args.name}, which is not shown again: {key}", file=sys.stderr)
    print("These lines belong in the settings file; then restart the node:", file=sys.stderr)
    print("\n[[http.key]]")  # so that '>> edge-llm.toml' does the rest
    for name, value in settings.model_dump(exclude_none=True).items():
        print(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    return 0
