"""``edge-llm bench``: how fast a model is on this very machine."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_llm.cli.common import add_config, run_until_signalled
from edge_llm.log import set_up_log
from edge_llm.settings import Settings, load_settings

__all__ = ["add"]

DESCRIPTION = """\
Measure how fast the model of the settings is on this very machine. It runs in a worker, as for the
service, but no broker is asked. On a card it must be alone: stop the service first.

  load             from the start of the worker until it can answer, self-test included
  prompt           how fast prompts of several lengths are computed that share nothing with earlier
                   ones, and when their first token comes
  decode           tokens/s after the first one; the time between two pieces of text, median and
                   95th percentile
  bus              bytes to the card and back for each token (counted), and how fast copies are;
                   only for a card behind PCIe
  first sentence   when it is whole, as "stream": "sentence" would say it
  in 3 s           what an answer with time_budget_s = 3 says, and how many tokens there is room for
  published        what others have published of this model, or of models of its size
  before, after    load, temperatures, and what holds the machine back

The table goes to the standard output, what is being done to the standard error."""


def add(commands: Any) -> None:
    """Add the command."""
    bench = commands.add_parser(
        "bench",
        help="measure how fast a model is on this machine",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config(bench)
    bench.add_argument("--model", type=Path, metavar="NAME|DIR", help="model to measure")
    bench.add_argument(
        "--short",
        action="store_true",
        help="half a minute, once the model is loaded: fewer prompts and tokens, each once",
    )
    bench.add_argument("--json", action="store_true", help="print JSON in place of the table")
    bench.add_argument("--save", type=Path, metavar="FILE", help="keep the figures, as JSON")
    bench.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help="show the ratio to figures that were kept, and what else has changed since",
    )
    bench.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    worker = {"model": args.model} if args.model else {}
    settings = load_settings(args.config, engine={"worker": worker})
    set_up_log(settings.log.model_copy(update={"level": "error"}))
    return run_until_signalled(_bench(settings, args), interrupted=130)


async def _bench(settings: Settings, args: argparse.Namespace) -> None:
    from rich.console import Console

    from edge_llm.bench import (
        FULL,
        SHORT,
        check_can_save,
        compare,
        draw,
        load_report,
        run_bench,
        save_report,
    )

    before = load_report(args.compare) if args.compare else None
    if args.save:
        check_can_save(args.save)
    with _progress() as say:
        report = await run_bench(settings, SHORT if args.short else FULL, say)
    comparison = compare(report, before) if before else None
    if args.save:
        save_report(report, args.save)
    if args.json:
        said = report.model_dump(mode="json")
        if comparison:
            said["comparison"] = comparison.model_dump(mode="json")
        print(json.dumps(said, indent=2, ensure_ascii=False))
    else:
        Console().print(draw(report, comparison))


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Give a function that shows what is being done, on the standard error."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("") as status:
            yield status.update
        return
    latest = ""

    def say(text: str) -> None:
        nonlocal latest
        if text != latest:
            latest = text
            print(f"edge-llm bench: {text}", file=sys.stderr, flush=True)

    yield say
