"""The figures of a report one by one, each with its unit: what is shown, and what is compared."""

from collections.abc import Iterator
from dataclasses import dataclass

from edge_llm.bench.report import Bus, Report

__all__ = ["Figure", "figures_of"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number.

    Attributes:
        name: the path of its field in the report; a prompt's length stands in the place of its
            index.
        title: for people.
        value: in its unit.
        unit: empty where it is a count.
        more_is_better: which way is the good one.
    """

    name: str
    title: str
    value: float
    unit: str
    more_is_better: bool


def figures_of(report: Report) -> Iterator[Figure]:
    """Yield all figures in the order in which they are shown."""
    yield Figure("load_s", "load", report.load_s, "s", False)
    for prompt in report.prefill:
        name, title = f"prefill.{prompt.length}", f"prompt of {prompt.length} tokens"
        yield Figure(f"{name}.ttft_s", f"{title}, first token", prompt.ttft_s, "s", False)
        yield Figure(f"{name}.tokens_per_s", title, prompt.tokens_per_s, "tokens/s", True)
    decode, first, budget = report.decode, report.first_sentence, report.budget
    yield Figure("decode.tokens_per_s", "decode", decode.tokens_per_s, "tokens/s", True)
    yield Figure("decode.token_ms_p50", "decode, median", decode.token_ms_p50, "ms/token", False)
    yield Figure("decode.token_ms_p95", "decode, 95 %", decode.token_ms_p95, "ms/token", False)
    if report.bus:
        yield from _bus(report.bus)
    yield Figure("first_sentence.ttft_s", "first word", first.ttft_s, "s", False)
    yield Figure("first_sentence.sentence_s", "first sentence", first.sentence_s, "s", False)
    within = f"in {budget.budget_s:g} s"
    yield Figure("budget.tokens", f"{within}, said", budget.tokens, "tokens", True)
    yield Figure("budget.sentences", f"{within}, said", budget.sentences, "sentences", True)
    yield Figure(
        "budget.tokens_at_speed", f"{within}, room for", budget.tokens_at_speed, "tokens", True
    )


def _bus(bus: Bus) -> Iterator[Figure]:
    yield Figure(
        "bus.up_bytes_per_token", "to the card", bus.up_bytes_per_token, "bytes/token", False
    )
    yield Figure(
        "bus.down_bytes_per_token", "from the card", bus.down_bytes_per_token, "bytes/token", False
    )
    yield Figure("bus.up_mb_per_s", "to the card", bus.up_mb_per_s, "MB/s", True)
    yield Figure("bus.down_mb_per_s", "from the card", bus.down_mb_per_s, "MB/s", True)
    yield Figure("bus.small_copy_ms", "a copy of 4 KiB", bus.small_copy_ms, "ms", False)
