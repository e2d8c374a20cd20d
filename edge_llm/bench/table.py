"""A report and a comparison, drawn for a terminal."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge_llm.bench.compare import Change, Comparison
from edge_llm.bench.figures import figures_of
from edge_llm.bench.report import Conditions, Published, Report

__all__ = ["draw"]

ENDS = {
    "stop": "ended by itself",
    "length": "reached its most tokens",
    "time_budget": "ended as its time did",
    "expired": "was over before it could begin",
}
SAME = 0.05
"""A difference that is none: two runs on one machine differ by as much."""


def draw(report: Report, comparison: Comparison | None = None) -> Group:
    """Return all that is to be said, for a console to print."""
    parts: list[RenderableType] = [_header(report), _figures(report), _notes(report)]
    if report.published:
        parts += [Text(), _published(report)]
    if comparison:
        parts += [Text(), *_comparison(comparison)]
    parts += [Text(f"! {caveat}", style="yellow") for caveat in report.caveats]
    return Group(*parts)


def _header(report: Report) -> Text:
    machine, model = report.machine, report.model
    runtime = f", {model.runtime}" if model.runtime else ""
    cores = f", {machine.cores} cores" if machine.cores else ""
    lines = [
        f"edge-llm {report.version}, {report.taken_at}, {report.plan} run",
        f"{machine.name}{cores}, {machine.kernel}, Python {machine.python}",
        f"{model.name}{runtime}, context {model.context_len} tokens",
        f"before: {_conditions(report.before)}; after: {_conditions(report.after)}",
    ]
    if report.bus:
        lines.insert(3, f"AXCL {report.bus.runtime}, firmware {report.bus.firmware}")
    if report.simulated:
        lines.insert(0, "SIMULATED CARD")
    return Text("\n".join(lines))


def _conditions(conditions: Conditions) -> str:
    said = []
    if (percent := conditions.host_cpu_percent) is not None:
        said.append(f"load {percent:.0f} %")
    for what, celsius in (("host", conditions.host_celsius), ("card", conditions.card_celsius)):
        if celsius is not None:
            said.append(f"{what} {celsius:.0f} °C")
    if conditions.pcie_speed_gts and conditions.pcie_width:
        said.append(f"PCIe {conditions.pcie_speed_gts:g} GT/s x{conditions.pcie_width}")
    if conditions.throttled is not None:
        flags = ", ".join(conditions.throttled).replace("_", " ")
        said.append(flags or "not held back")
    return ", ".join(said) or "nothing could be read"


def _figures(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for justify in ("left", "right", "left"):
        table.add_column(justify=justify)
    for figure in figures_of(report):
        table.add_row(figure.title, _number(figure.value), figure.unit)
    return table


def _notes(report: Report) -> Text:
    """Say what the figures alone would not tell."""
    budget, decode = report.budget, report.decode
    how = ENDS.get(budget.finish_reason, f"ended ({budget.finish_reason})")
    lines = [f"The answer in {budget.budget_s:g} s {how} after {budget.took_s:.3g} s."]
    if decode.pieces < decode.tokens:
        lines.append(f"{decode.tokens} tokens were decoded, which gave {decode.pieces} texts.")
    if report.bus_note:
        lines.append(f"The card's bus: {report.bus_note}.")
    return Text("\n".join(lines))


def _number(value: float) -> str:
    if value == int(value) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _published(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title_justify="left")
    of_size = "" if report.published[0].is_same else " of this size"
    table.title = f"Published of models{of_size}; the ratio is what was measured here by that"
    for heading in ("model", "tokens/s", "ratio", "first token", "ratio", "load", "ratio", "by"):
        table.add_column(heading, justify="left" if heading in ("model", "by") else "right")
    for published in report.published:
        table.add_row(*_published_cells(published))
    return table


def _published_cells(published: Published) -> Iterator[str]:
    yield f"{published.model} ({published.quantization})"
    yield f"{published.tokens_per_s:g}"
    yield f"{published.tokens_per_s_ratio:.2f}"
    for seconds, ratio in (
        (published.ttft_s, published.ttft_ratio),
        (published.load_s, published.load_ratio),
    ):
        yield "" if seconds is None else f"{seconds:g} s"
        yield "" if ratio is None else f"{ratio:.2f}"
    older = ", older" if published.is_superseded else ""
    doubtful = ", doubtful" if published.certainty == "doubtful" else ""
    yield f"{published.source}, {published.host}{older}{doubtful}"


def _comparison(comparison: Comparison) -> Iterator[RenderableType]:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title_justify="left")
    table.title = f"Compared with the run of {comparison.taken_at}"
    table.add_column("")
    for heading in ("before", "now", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for change in comparison.figures:
        table.add_row(
            f"{change.title}, {change.unit}",
            _number(change.before),
            _number(change.now),
            "" if change.ratio is None else f"{change.ratio:.2f}",
            _verdict(change),
        )
    yield table
    for difference in comparison.differences:
        yield Text(f"  {difference}")
    if not comparison.differences:
        yield Text("  nothing else that is known has changed")


def _verdict(change: Change) -> Text:
    if change.ratio is None or abs(change.ratio - 1) <= SAME:
        return Text("")
    is_better = (change.ratio > 1) == change.more_is_better
    return Text("better", style="green") if is_better else Text("worse", style="red")
