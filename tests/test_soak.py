"""Days of an installation in minutes, and whether what is measured of them would show a leak."""

import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from tests.programs import require_program
from tests.reliability.soak import describe, failures_of, main, run_soak
from tests.reliability.vitals import Sample, growth_of

GOOD: dict[str, Any] = {
    "hours": 24.0,
    "compress": 20.0,
    "engine": "cpu",
    "machine": "2 cores",
    "seed": 1,
    "asked": 1000,
    "errors": {"queue_full": 9},
    "lost": [],
    "contradicted": [],
    "wrong": [],
    "presses_in_vain": 3,
    "broker_restarts": 8,
    "faults": [{"hour": 1.0, "fault": "worker_sigkill", "works_s": 3.0}],
    "latency_s": {"first_quarter": 0.2, "last_quarter": 0.25},
    "growth": {
        "core": {
            "lives": 1,
            "hours": 20.0,
            "first_mib": 60.0,
            "last_mib": 61.0,
            "mib_per_hour": 0.01,
            "fds_per_hour": 0.0,
        }
    },
}


@pytest.mark.timeout(180)
async def test_some_minutes_of_an_installation(tmp_path: Path) -> None:
    require_program("cc", "build-essential")
    seed = secrets.randbits(32)
    report = await run_soak(tmp_path, hours=0.15, compress=20, seed=seed, engine="cpu")
    assert failures_of(report, is_long=False) == [], report
    assert report["asked"] > 20
    assert report["broker_restarts"] == 1
    assert report["faults"]


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("engine", ["card", "cpu"])
def test_a_day_of_an_installation(tmp_path: Path, engine: str) -> None:
    out = tmp_path / "soak.json"
    code = main(["--hours", "24", "--compress", "20", "--engine", engine, "--out", str(out)])
    assert code == 0, failures_of(json.loads(out.read_text()))


def life(pid: int, mib_per_hour: float, fds_per_hour: float, count: int = 40) -> list[Sample]:
    return [
        Sample(pid, hours, 50 + mib_per_hour * hours, round(20 + fds_per_hour * hours))
        for hours in (number / 10 for number in range(count))
    ]


def test_growth_is_found_across_lives() -> None:
    growth = growth_of(life(1, 2.0, 10.0) + life(2, 4.0, 10.0))
    assert growth
    assert growth.lives == 2
    assert growth.mib_per_hour == pytest.approx(3.0)
    assert growth.fds_per_hour == pytest.approx(10.0, rel=0.1)


def test_short_lives_and_the_warm_up_say_nothing_of_growth() -> None:
    assert growth_of(life(1, 2.0, 0.0, count=10)) is None
    warm_up = [sample._replace(rss_mib=20.0) for sample in life(1, 0.0, 0.0)[:10]]
    growth = growth_of(warm_up + life(1, 0.0, 0.0)[10:])
    assert growth
    assert growth.mib_per_hour == pytest.approx(0.0, abs=1e-9)


def test_a_good_day_passes_and_is_described() -> None:
    assert failures_of(GOOD) == []
    text = describe(GOOD)
    assert "| lost | 0 |" in text
    assert "| answered with an error | 9 (0.90 %): {'queue_full': 9} |" in text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"lost": ["c1/2"]}, "were lost"),
        ({"contradicted": ["c1/2"]}, "had two answers"),
        ({"wrong": ["c1/2"]}, "were wrong"),
        ({"errors": {"queue_full": 11}}, "were errors"),
        ({"asked": 0, "errors": {}}, "nothing was asked"),
        ({"faults": [{"fault": "card_dies", "trouble": "does not work"}]}, "card_dies"),
        ({"latency_s": {"first_quarter": 0.2, "last_quarter": 0.4}}, "latency grew"),
        ({"growth": {"core": {**GOOD["growth"]["core"], "mib_per_hour": 1.0}}}, "core grows"),
        ({"growth": {"core": {**GOOD["growth"]["core"], "fds_per_hour": 1.0}}}, "opens files"),
        ({"growth": {"worker": None}}, "never lived long enough"),
    ],
)
def test_a_bad_day_fails(change: dict[str, Any], why: str) -> None:
    (failure,) = failures_of({**GOOD, **change})
    assert why in failure
