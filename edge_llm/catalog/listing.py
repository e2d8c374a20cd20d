"""The table of published models, line by line, as ``edge-llm model list`` prints it."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_llm.catalog.fit import Budget, answer_s, card_speeds, fits, meets, nearest, speed_class
from edge_llm.catalog.published import MODELS, PublishedModel, PublishedSpeed
from edge_llm.catalog.shelf import LocalModel

__all__ = ["listing", "size", "sources", "tokens_per_s"]

UNKNOWN = "?"
WIDTH = 96
NEAREST = 3
"""How many are named that miss a budget by the least."""


def listing(
    models_dir: Path, local: Sequence[LocalModel], budget: Budget | None, free_mib: int
) -> Iterator[str]:
    """Yield the models, which of them meet a budget, and what is here."""
    here = {model.name: model for model in local}
    tokens = budget.tokens if budget else 100
    yield from _table(tokens, here, free_mib)
    yield ""
    yield f"'fits': into {free_mib} MiB of card memory (CMM) that are free. '?': not published."
    yield f"Times count from the request, for a prompt of up to 128 tokens, to token {tokens}."
    yield "The figures are those of the sources in brackets (docs/models.md says where they are);"
    yield "no repository was tried by us: its name was seen where 'seen' says."
    yield from _budget(budget)
    yield ""
    yield f"on this machine, in {models_dir}:"
    yield from _shelf(local)


def _table(tokens: int, here: dict[str, LocalModel], free_mib: int) -> Iterator[str]:
    head = ("NAME", "HERE", "SPEED", "TOKENS/S", f"{tokens} TOKENS", "CONTEXT", "SIZE", "CARD MEM")
    yield _row(*head, "FITS")
    for model in MODELS:
        times = answer_s(model, tokens)
        fitting = fits(model, free_mib)
        found = here.get(model.name)
        yield _row(
            model.name,
            ("yes" if found.is_finished else "partly") if found else "-",
            speed_class(model),
            tokens_per_s(model),
            f"{times[0]:.1f}-{times[1]:.1f} s" if times else UNKNOWN,
            str(model.context_len or UNKNOWN),
            size(model.download_bytes) if model.download_bytes else UNKNOWN,
            f"{model.cmm_mib} MiB" if model.cmm_mib else UNKNOWN,
            UNKNOWN if fitting is None else "yes" if fitting else "no",
        )
        yield f"    {model.repo} ({_seen(model)}), {model.quantization}"
        if said := sources(model):
            yield from textwrap.wrap(said, WIDTH, initial_indent="    ", subsequent_indent="      ")
        if model.notes:
            yield f"    {model.notes}"


def _row(*cells: str) -> str:
    widths = (22, 7, 8, 13, 13, 8, 8, 9)
    padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)]
    return " ".join([*padded, *cells[len(widths) :]]).rstrip()


def _budget(budget: Budget | None) -> Iterator[str]:
    if budget is None:
        return
    verdicts = {m.name: meets(m, budget.tokens, budget.seconds) for m in MODELS}
    yield ""
    yield f"{budget.tokens} tokens in {budget.seconds:g} s:"
    for verdict, words in (("yes", "by all figures"), ("perhaps", "by the best figure only")):
        names = [name for name, found in verdicts.items() if found == verdict]
        yield f"    {words}: {', '.join(names) or 'none'}"
    missing = [m for m in MODELS if verdicts[m.name] == "no"]
    for model in nearest(missing, budget)[:NEAREST]:
        if times := answer_s(model, budget.tokens):
            yield f"    nearest: {model.name}, {times[0]:.1f} s at best"


def _shelf(local: Sequence[LocalModel]) -> Iterator[str]:
    for model in local:
        if not model.is_finished:
            state = f"not finished; go on: edge-llm model get {model.name}"
        elif model.record:
            state = f"{model.record.repo} at {model.record.revision[:12]}"
        else:
            state = "put there by somebody"
        yield f"    {model.name:<22} {size(model.size_bytes):<8} {state}"
    if not local:
        yield "    nothing; get one: edge-llm model get NAME"


def tokens_per_s(model: PublishedModel) -> str:
    """Return the least and the most of the figures for a card; ``?`` if there are none."""
    speeds = card_speeds(model)
    if not speeds:
        return UNKNOWN
    least = min(s.tokens_per_s for s in speeds)
    most = max(s.up_to_tokens_per_s or s.tokens_per_s for s in speeds)
    return f"{least:g}" if least == most else f"{least:g}-{most:g}"


def sources(model: PublishedModel) -> str:
    """Return each figure for a card, and whose it is."""
    return "; ".join(_said(speed) for speed in card_speeds(model))


def _said(speed: PublishedSpeed) -> str:
    rate = f"{speed.tokens_per_s:g}"
    if speed.up_to_tokens_per_s:
        rate += f"-{speed.up_to_tokens_per_s:g}"
    ttft = f" after {speed.ttft_s:g} s" if speed.ttft_s is not None else ""
    host = {"pi5": ", Pi 5", "rk3588": ", RK3588"}.get(speed.host, "")
    doubt = ", in doubt" if speed.certainty == "doubtful" else ""
    return f"{rate}{ttft} ({speed.source}{host}{doubt})"


def _seen(model: PublishedModel) -> str:
    return f"seen: {model.repo_source}" if model.repo_source else "a guess: not verified"


def size(num_bytes: int) -> str:
    """Return a size in GB or MB."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
