"""Two reports side by side: the ratio of each figure, and what else is not the same."""

from collections.abc import Iterator

from pydantic import BaseModel

from edge_llm.bench.figures import figures_of
from edge_llm.bench.report import Conditions, Report

__all__ = ["Change", "Comparison", "compare"]

NOTABLE_CELSIUS = 5.0
NOTABLE_PERCENT = 15.0


class Change(BaseModel):
    """A figure that both reports have."""

    name: str
    title: str
    unit: str
    before: float
    now: float
    ratio: float | None
    """Now by before; none where that was 0."""
    more_is_better: bool


class Comparison(BaseModel):
    """What has changed since an earlier run."""

    taken_at: str
    """When the earlier run began."""
    figures: tuple[Change, ...]
    differences: tuple[str, ...]
    """What else is different, and may be why, in words for people."""


def compare(now: Report, before: Report) -> Comparison:
    """Compare a run with an earlier one; figures that only one of them has are left out."""
    earlier = {figure.name: figure.value for figure in figures_of(before)}
    changes = tuple(
        Change(
            name=figure.name,
            title=figure.title,
            unit=figure.unit,
            before=earlier[figure.name],
            now=figure.value,
            ratio=figure.value / earlier[figure.name] if earlier[figure.name] else None,
            more_is_better=figure.more_is_better,
        )
        for figure in figures_of(now)
        if figure.name in earlier
    )
    return Comparison(
        taken_at=before.taken_at, figures=changes, differences=tuple(_differences(now, before))
    )


def _differences(now: Report, before: Report) -> Iterator[str]:
    pairs: list[tuple[str, object, object]] = [
        ("edge-llm", before.version, now.version),
        ("extent", before.plan, now.plan),
        ("simulated card", before.simulated, now.simulated),
    ]
    for part, old, new in (
        ("machine", before.machine, now.machine),
        ("model", before.model, now.model),
    ):
        fields = type(new).model_fields
        pairs += [(f"{part}, {name}", getattr(old, name), getattr(new, name)) for name in fields]
    if before.bus and now.bus:
        pairs += [
            ("AXCL runtime", before.bus.runtime, now.bus.runtime),
            ("firmware", before.bus.firmware, now.bus.firmware),
        ]
    for what, was, is_now in pairs:
        if was != is_now:
            yield f"{what.replace('_', ' ')}: {_shown(was)}, now {_shown(is_now)}"
    yield from _conditions("before the run", before.before, now.before)
    yield from _conditions("after the run", before.after, now.after, with_load=False)


def _conditions(
    when: str, was: Conditions, is_now: Conditions, *, with_load: bool = True
) -> Iterator[str]:
    """After the run the load is the run's own."""
    notable = [("the host, °C", "host_celsius", NOTABLE_CELSIUS)]
    notable += [("the card, °C", "card_celsius", NOTABLE_CELSIUS)]
    if with_load:
        notable += [("load of the host, %", "host_cpu_percent", NOTABLE_PERCENT)]
    for what, name, least in notable:
        old, new = getattr(was, name), getattr(is_now, name)
        if old is not None and new is not None and abs(old - new) >= least:
            yield f"{what} {when}: {old:.0f}, now {new:.0f}"
    for what, name in (
        ("held back", "throttled"),
        ("PCIe, GT/s", "pcie_speed_gts"),
        ("PCIe lanes", "pcie_width"),
    ):
        old, new = getattr(was, name), getattr(is_now, name)
        if old != new:
            yield f"{what} {when}: {_shown(old)}, now {_shown(new)}"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(str(one).replace("_", " ") for one in value) or "no"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)
