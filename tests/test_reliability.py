"""The fault matrix in short: most faults once, on a real node, and what the harness itself counts.

The long form is ``python -m tests.reliability.matrix --times 20``.
"""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.catalog import FAULTS
from tests.reliability.crowd import Asked, Crowd
from tests.reliability.injection import Row, run_faults
from tests.reliability.matrix import make_groups
from tests.reliability.table import describe, merge
from tests.reliability.world import EngineKind

SHORT: tuple[tuple[EngineKind, tuple[str, ...]], ...] = (
    ("card", ("card_hangs", "smi_garbage")),
    ("card", ("card_dead_at_start", "card_code_80300508", "card_fails_once")),
    ("card", ("card_dies",)),
    ("card", ("cmm_leak", "smi_hangs", "smi_missing")),
    ("cpu", ("worker_sigstop", "step_exception", "worker_out_of_memory")),
    ("cpu", ("broker_gone", "both_killed", "worker_sigkill")),
    ("cpu", ("disk_full", "clock_forward", "clock_back")),
)
SEED = 6
THINK_S = 0.3  # three of these share two cores in CI


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("engine", "names"), SHORT, ids=str)
async def test_the_node_gets_over(
    tmp_path: Path, card_model_dir: Path, engine: EngineKind, names: tuple[str, ...]
) -> None:
    faults = [FAULTS[name] for name in names]
    rows = await run_faults(
        tmp_path, faults, engine, card_model_dir, times=1, seed=SEED, think_s=THINK_S
    )
    failures = [failure for row in rows for failure in row.failures]
    assert failures == [], (tmp_path / "node.log").read_text()[-4000:]


def test_each_fault_is_in_the_long_form_on_each_of_its_engines() -> None:
    groups = make_groups(list(FAULTS), ("card", "cpu"))
    rows = [(engine, fault.name) for engine, faults in groups for fault in faults]
    assert sorted(rows) == sorted(
        (engine, fault.name) for fault in FAULTS.values() for engine in fault.engines
    )


def test_in_short_most_kinds_of_faults_are_met() -> None:
    met = {name for _, names in SHORT for name in names}
    left_out = {name for name in FAULTS if name not in met}
    assert {name.partition("_code_")[0] for name in left_out} <= {
        "card",  # one fatal code is as good as another here
        "card_hangs_wedges",
        "temperature_ramp",  # test_card_heat.py has one
        "card_times_out",
        "worker_sigkill_wedges",
    }


# The harness


async def make_crowd(*finals: tuple[bytes, ...]) -> Crowd:
    crowd = Crowd([], 0)
    crowd.expected = {"Hello!": "Hi."}
    for number, payloads in enumerate(finals):
        asked = crowd.asked[f"c0/{number}"] = Asked("Hello!", time.monotonic())
        asked.finals = [(asked.at + number, payload) for payload in payloads]
    return crowd


def final(text: str) -> bytes:
    return json.dumps({"text": text}).encode()


ERROR = json.dumps({"text": None, "error": {"code": "device_lost", "message": "gone"}}).encode()


async def test_what_became_of_requests_is_counted() -> None:
    crowd = await make_crowd(
        (final("Hi."),),
        (final("Hi."), final("Hi.")),
        (final("Hi."), ERROR),
        (ERROR,),
        (final("Ho."),),
        (),
    )
    tally = crowd.tally()
    assert (tally.asked, tally.texts, dict(tally.errors)) == (6, 4, {"device_lost": 1})
    assert (tally.repeated, tally.contradicted) == (2, ["c0/2"])
    assert (tally.lost, tally.wrong) == (["c0/5"], ["c0/4"])


@pytest.mark.parametrize(
    ("finals", "failure"),
    [
        (((),), "1 requests had no final message"),
        (((final("Ho."),),), "1 answers were wrong"),
        (((final("Hi."), ERROR),), "1 had two that differ"),
    ],
)
async def test_what_must_not_be_fails_a_row(
    finals: tuple[tuple[bytes, ...], ...], failure: str
) -> None:
    row = Row("card_dies", "card: dies", "card", 0.0, 1, [0.1], [2.0], [2.0])
    assert row.failures == []
    row.add((await make_crowd(*finals)).tally())
    assert row.failures == [f"card_dies on card: {failure}"]


def test_a_fault_that_nobody_notices_or_gets_over_fails_a_row() -> None:
    row = Row("card_dies", "card: dies", "card", 0.0, injected=2, detected_s=[0.1], back_s=[1.0])
    assert row.failures == [
        "card_dies on card: 1 of 2 were not noticed",
        "card_dies on card: no answer after 1 of 2",
    ]


async def test_the_longest_silence_is_between_two_answers() -> None:
    crowd = await make_crowd((final("Hi."),), (ERROR,), (final("Hi."),))
    since = min(asked.at for asked in crowd.asked.values())
    assert crowd.longest_silence_s(since, since + 3) == pytest.approx(2, abs=0.1)
    assert crowd.longest_silence_s(since, since + 7) == pytest.approx(5, abs=0.1)
    await asyncio.sleep(0)


def test_the_table_has_a_line_for_each_row() -> None:
    row = Row("card_dies", "card: dies", "card", 0.0, 1, [0.125], [2.0], [2.0], 5, 5)
    report = {"factor": 10, "machine": "2 cores", "seed": 1, "rows": [vars(row)]}
    text = describe(report)
    assert text.startswith("1 injections, 5 requests: 0 lost, 0 wrong answers, 0 answered with an")
    assert "| card: dies | card | 1 |  | 0.1 s (0.1) | 2.0 s (2.0) |" in text


def test_runs_can_be_put_together() -> None:
    def report(seed: int, **values: Any) -> dict[str, Any]:
        row = vars(Row("card_dies", "card: dies", "card", 0.0)) | values
        return {"factor": 10.0, "machine": "2 cores", "seed": seed, "times": 1, "rows": [row]}

    first = report(1, injected=1, back_s=[2.0], asked=5, errors={"device_lost": 1}, lost=1)
    second = report(2, injected=2, back_s=[1.0, 3.0], asked=7, errors={"device_lost": 2})
    merged = merge([first, second])
    (row,) = merged["rows"]
    assert merged["seed"] == "1, 2"
    assert (row["fault"], row["injected"], row["asked"], row["lost"]) == ("card_dies", 3, 12, 1)
    assert (row["back_s"], row["errors"]) == ([2.0, 1.0, 3.0], {"device_lost": 3})
    with pytest.raises(ValueError, match="can't be compared"):
        merge([first, {**second, "factor": 1.0}])
