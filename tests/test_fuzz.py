"""What reads from outside keeps to its word with seeds, with inputs that were a mistake once, and
with whatever a fuzzer makes of them in a few seconds; ``python -m tests.fuzz --all`` takes longer.
"""

import importlib.util
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import structlog.testing

from tests.fuzz import session
from tests.fuzz.json_mutation import json_mutator
from tests.fuzz.source import Source, join
from tests.fuzz.target import load_target, target_names
from tests.programs import do_without

SECONDS = 3.0
CHANCE = 20261127
"""CI must not fail for what a change did not do; chance has its turn in the long form."""
MISTAKES = sorted(session.REGRESSIONS.glob("*/*"))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def atheris() -> None:
    """It is on PyPI for this machine only; elsewhere seeds and mistakes have to do."""
    if platform.machine() != "x86_64":
        pytest.skip("there is no atheris for this machine")
    if not importlib.util.find_spec("atheris"):
        do_without("atheris is not installed (pip install atheris)")


@pytest.mark.parametrize("name", target_names())
def test_all_seeds_are_read(name: str) -> None:
    target = load_target(name)
    seeds = list(target.seeds())
    assert len(seeds) >= 3
    for seed in seeds:
        target.check(seed)
        assert len(seed) <= target.max_len, "it would be cut"


@pytest.mark.parametrize("path", MISTAKES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_no_mistake_comes_back(path: Path) -> None:
    load_target(path.parent.name).check(path.read_bytes())


@pytest.mark.parametrize("name", target_names())
@pytest.mark.usefixtures("atheris")
def test_a_few_seconds_of_fuzzing_find_nothing(name: str, tmp_path: Path) -> None:
    outcome = session.fuzz_target(name, SECONDS, tmp_path, CHANCE)
    print(outcome)
    assert not outcome.crashes
    target = load_target(name)
    assert outcome.executions >= len(list(target.seeds()))
    assert outcome.edges_at_end >= outcome.edges_at_start
    assert (outcome.edges_at_start > 0) == target.is_covered


@pytest.mark.usefixtures("atheris")
def test_what_raises_and_what_dies_is_found(tmp_path: Path) -> None:
    outcome = session.fuzz_target("tests.fuzz.broken", SECONDS, tmp_path)
    found = {Path(path).name.partition("-")[0]: Path(path) for path in outcome.crashes}
    assert set(found) == {"raised", "crash"}
    assert found["raised"].read_bytes()[:1] == b"x"
    assert "KeyError" in found["raised"].with_suffix(".txt").read_text()
    assert sum("raised-" in path for path in outcome.crashes) == 1, "each place counts once"


@pytest.mark.usefixtures("atheris")
def test_what_hangs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "INPUT_TIMEOUT_S", 1)
    outcome = session.fuzz_target("tests.fuzz.hanging", 2 * SECONDS, tmp_path)
    assert {Path(path).name.partition("-")[0] for path in outcome.crashes} == {"timeout"}
    assert outcome.starts > 1, "the time that was left was used"


def test_an_input_is_taken_apart_as_it_was_put_together() -> None:
    source = Source(join((7, 1, 2, 1), "ünï", b"\x00", "rest"))
    assert source.byte() == 7
    assert source.number(10, 20) == 10 + 0x0201 % 11
    assert source.flag()
    assert source.text() == "ünï"
    assert source.part() == b"\x00"
    assert source.rest() == b"rest"
    assert not source
    assert (source.byte(), source.text(), source.rest()) == (0, "", b"")


def test_json_is_changed_in_the_same_way_by_the_same_seed() -> None:
    mutate = json_mutator(2)
    body = b'ab{"messages": [{"role": "user", "content": "Hi"}], "seed": 7}'
    changed = [mutate(body, seed) for seed in range(200)]
    assert changed == [mutate(body, seed) for seed in range(200)]
    assert len(set(changed)) > 150
    assert mutate(b"ab{broken", 1)[-7:] == b"{broken"
