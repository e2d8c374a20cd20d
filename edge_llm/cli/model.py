"""``edge-llm model``: which models there are for the card, and getting one."""

import argparse
import dataclasses
import difflib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_llm import catalog
from edge_llm.catalog.listing import listing, size
from edge_llm.catalog.shelf import LocalModel, list_local, read_record, remove, tidy
from edge_llm.cli.common import add_config
from edge_llm.errors import ConfigurationError
from edge_llm.settings import load_settings
from edge_llm.settings.models import default_models_dir, is_model_name

__all__ = ["add"]

INTERRUPTED = 130
"""What a shell calls the end by Ctrl-C."""

EXAMPLES = """\
  edge-llm model list                       what there is, how fast it is, what is here
  edge-llm model list --budget 100/3        which says 100 tokens in 3 seconds
  edge-llm model get qwen3-0.6b             download it; after Ctrl-C the same command goes on
  edge-llm serve --model qwen3-0.6b         serve it
  edge-llm model remove qwen3-0.6b          make room
"""


def add(commands: Any) -> None:
    """Add the command, and its own commands."""
    raw = argparse.RawDescriptionHelpFormatter
    model = commands.add_parser(
        "model",
        help="which models there are for the card, and getting one",
        description=EXAMPLES,
        formatter_class=raw,
    )
    actions = model.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_list(actions)
    _add_get(actions)
    removing = actions.add_parser("remove", help="remove a downloaded model from the disk")
    removing.add_argument("name", metavar="NAME", help="of 'edge-llm model list'")
    _add_common(removing, _remove)


def _add_list(actions: Any) -> None:
    listing = actions.add_parser(
        "list",
        help="published models: speed, size, what fits, what is here",
        description="Models that are published for the card. All figures are of others, and "
        "name their source: edge-llm bench says what this machine does.",
    )
    listing.add_argument(
        "--budget", metavar="TOKENS/S", help="which say so many tokens in so many seconds: 100/3"
    )
    listing.add_argument(
        "--free",
        type=int,
        metavar="MIB",
        default=catalog.CMM_FREE_MIB,
        help=f"card memory that is free (CMM), in MiB; {catalog.CMM_FREE_MIB} on an idle 8 GB card",
    )
    _add_common(listing, _list)


def _add_get(actions: Any) -> None:
    getting = actions.add_parser(
        "get",
        help="download a model from Hugging Face",
        description="Download the files that the card needs, and check them. After Ctrl-C or an "
        "error the same command goes on where it was. For a model that not everybody may have "
        "set HF_TOKEN; for a mirror set HF_ENDPOINT.",
    )
    getting.add_argument(
        "name", metavar="NAME|OWNER/NAME", help="of 'edge-llm model list', or of Hugging Face"
    )
    getting.add_argument("--revision", metavar="REV", help="branch, tag or commit; else the newest")
    getting.add_argument("--folder", help="which of its folders, if it has several models")
    getting.add_argument("--update", action="store_true", help="replace it if there is a newer one")
    _add_common(getting, _get)


def _add_common(parser: argparse.ArgumentParser, command: Callable[..., int]) -> None:
    add_config(parser)
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where models are")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=command)


def _models_dir(args: argparse.Namespace) -> Path:
    configured = load_settings(args.config).engine.worker.models_dir
    return Path(args.dir or configured or default_models_dir())


def _list(args: argparse.Namespace) -> int:
    budget = catalog.Budget.parse(args.budget) if args.budget else None
    models_dir = _models_dir(args)
    local = list_local(models_dir)
    if args.json:
        print(json.dumps(_as_json(models_dir, local, budget, args.free), indent=1))
    else:
        for line in listing(models_dir, local, budget, args.free):
            print(line)
    return 0


def _as_json(
    models_dir: Path, local: list[LocalModel], budget: catalog.Budget | None, free_mib: int
) -> dict[str, Any]:
    here = {model.name: model for model in local}
    models = []
    for model in catalog.MODELS:
        found = here.get(model.name)
        entry = dataclasses.asdict(model) | {
            "speed_class": catalog.speed_class(model),
            "fits": catalog.fits(model, free_mib),
            "downloaded": bool(found and found.is_finished),
        }
        if budget:
            entry["meets"] = catalog.meets(model, budget.tokens, budget.seconds)
            entry["answer_s"] = catalog.answer_s(model, budget.tokens)
        models.append(entry)
    kept = [dataclasses.asdict(model) | {"path": str(model.path)} for model in local]
    return {"models_dir": str(models_dir), "free_mib": free_mib, "models": models, "local": kept}


def _remove(args: argparse.Namespace) -> int:
    freed = remove(_models_dir(args), args.name)
    if args.json:
        print(json.dumps({"name": args.name, "freed_bytes": freed}))
    else:
        print(f"{args.name} is removed; {size(freed)} are free again")
    return 0


def _get(args: argparse.Namespace) -> int:
    name, repo = _resolve(args.name)
    target = _models_dir(args) / name
    tidy(target.parent, name)
    try:
        return _get_into(args, name, repo, target)
    except KeyboardInterrupt:
        print(
            f"\nstopped; what has arrived is kept: run 'edge-llm model get {args.name}' to go on, "
            f"or 'edge-llm model remove {name}' to throw it away",
            file=sys.stderr,
        )
        return INTERRUPTED


def _resolve(asked: str) -> tuple[str, str]:
    """Return the name that a model has here, and its repository."""
    if model := catalog.find_model(asked):
        return model.name, model.repo
    name = asked.rpartition("/")[2]
    if "/" in asked and is_model_name(name):
        return name, asked
    names = [model.name for model in catalog.MODELS]
    near = difflib.get_close_matches(asked.lower(), names, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigurationError(
        f"there is no published model {asked}; {hint}'edge-llm model list' names them, and another "
        "repository of Hugging Face is written OWNER/NAME"
    )


def _get_into(args: argparse.Namespace, name: str, repo: str, target: Path) -> int:
    from edge_llm.catalog.download import download, make_plan
    from edge_llm.catalog.hub import look_up
    from edge_llm.catalog.layout import choose_files
    from edge_llm.catalog.progress import open_progress

    record = read_record(target)
    if target.exists() and not args.update:
        what = f"{name} is here already"
        return _done(args, target, what, "'--update' looks for a newer one")
    repository = look_up(repo, args.revision)
    if record and (record.repo, record.revision) == (repo, repository.revision):
        return _done(args, target, f"{name} is up to date", f"revision {record.revision[:12]}")
    plan = make_plan(repository, choose_files(repository, args.folder), target)
    _say(f"{name}: {repo} at {repository.revision[:12]}, {len(plan.files)} files")
    had = f", {size(plan.have_bytes)} of them from before" if plan.have_bytes else ""
    _say(f"{size(plan.total_bytes)}{had}; {size(plan.free_bytes)} are free in {target.parent}")
    with open_progress(plan.total_bytes, plan.have_bytes, len(plan.files)) as progress:
        download(plan, progress, _check)
    return _done(args, target, f"{name} is ready", f"edge-llm serve --model {_to_serve(target)}")


def _check(directory: Path) -> None:
    from edge_llm.engine.model import ModelDirectory

    ModelDirectory(directory)


def _to_serve(target: Path) -> str:
    """Return what ``serve`` must be told: the name, if it looks where this is."""
    return target.name if target.parent == default_models_dir() else str(target)


def _done(args: argparse.Namespace, target: Path, what: str, then: str) -> int:
    record = read_record(target)
    if args.json:
        said = {"name": target.name, "path": str(target)}
        print(json.dumps(said | (dataclasses.asdict(record) if record else {})))
    else:
        print(f"{what}: {target}\n{then}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
