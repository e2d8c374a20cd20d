"""The simulation of a fleet agrees with what queueing theory knows exactly."""

import argparse
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from edge_llm.catalog import MODELS, find_model
from tests.bench.crowd import Card, Crowd, find_card, simulate
from tests.bench.fleet_sim import Wanted, outcomes, size, sizes
from tests.docs.blocks import ROOT, read_blocks

COUNT = 200_000


def erlang_c(cards: int, load: float) -> float:
    """Return the share of requests that have to wait at all: M/M/c, of a load in erlangs."""
    last = load**cards / math.factorial(cards) * cards / (cards - load)
    return last / (sum(load**k / math.factorial(k) for k in range(cards)) + last)


def random_arrivals(dice: np.random.Generator, per_s: float) -> np.ndarray:
    return np.cumsum(dice.exponential(1 / per_s, COUNT))


@pytest.mark.parametrize(("cards", "busy"), [(1, 0.5), (1, 0.8), (3, 0.7), (8, 0.85)])
def test_random_lengths_wait_as_erlang_says(cards: int, busy: float) -> None:
    """M/M/c: who has to wait, how long on average, and how many wait longer than some time."""
    dice, load = np.random.default_rng(5), cards * busy
    arrivals = random_arrivals(dice, load)  # one second each, on average
    begins, used = simulate(arrivals, np.tile(dice.exponential(1, COUNT), (cards, 1)))
    waits = begins - arrivals
    waiting = erlang_c(cards, load)
    assert np.mean(waits > 0) == pytest.approx(waiting, rel=0.04)
    assert waits.mean() == pytest.approx(waiting / (cards - load), rel=0.08)
    for longer_s in (0.5, 2.0):
        expected = waiting * math.exp(-(cards - load) * longer_s)
        assert np.mean(waits > longer_s) == pytest.approx(expected, rel=0.1, abs=0.002)
    assert set(used) == set(range(cards))


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_one_card_waits_as_pollaczek_and_khinchine_say(spread: float) -> None:
    """M/G/1, with lengths and speeds as they are drawn for a crowd."""
    dice = np.random.default_rng(7)
    crowd = Crowd(tokens=60, spread=spread, max_tokens=100_000)
    services = Card("one", tokens_per_s=20, ttft_s=0.5).service_s(crowd.lengths(COUNT, dice))
    assert services.mean() == pytest.approx(0.5 + 59 / 20, rel=0.01)
    per_s = 0.7 / services.mean()
    begins, _ = simulate(arrivals := random_arrivals(dice, per_s), services[None])
    expected = per_s * np.mean(services**2) / 2 / (1 - 0.7)
    assert (begins - arrivals).mean() == pytest.approx(expected, rel=0.06)


def test_who_goes_first_waits_as_cobham_says() -> None:
    """Two classes of one kind of request on one card; what has begun is never put back."""
    dice, busy, urgent = np.random.default_rng(9), 0.8, 0.25
    arrivals = random_arrivals(dice, busy)
    first = dice.random(COUNT) < urgent
    begins, _ = simulate(arrivals, dice.exponential(1, (1, COUNT)), first)
    waits = begins - arrivals
    before = 1 - busy * urgent
    assert waits[first].mean() == pytest.approx(busy / before, rel=0.05)
    assert waits[~first].mean() == pytest.approx(busy / before / (1 - busy), rel=0.08)


def test_a_burst_is_answered_round_after_round() -> None:
    begins, _ = simulate(np.zeros(7), np.full((3, 7), 2.0))
    assert sorted(begins) == [0, 0, 0, 2, 2, 2, 4]


def test_a_faster_card_takes_more() -> None:
    speeds = np.array([[1.0], [2.0], [4.0]])
    _, used = simulate(np.zeros(700), np.repeat(4 / speeds, 700, axis=1))
    assert np.bincount(used).tolist() == [100, 200, 400]


def test_a_crowd_is_as_it_was_said() -> None:
    dice = np.random.default_rng(1)
    crowd = Crowd(per_minute=30, burst=50, burst_over_s=10, burst_every_s=600, tokens=60)
    arrivals = crowd.arrivals(60_000, dice)
    assert len(arrivals) == pytest.approx(30_000 + 100 * 50, rel=0.02)
    assert np.sum((arrivals >= 300) & (arrivals < 310)) >= 50
    lengths = crowd.lengths(50_000, dice)
    assert lengths.mean() == pytest.approx(60, rel=0.02)
    assert lengths.std() == pytest.approx(30, rel=0.05)
    assert Crowd(tokens=200, max_tokens=256).lengths(1000, dice).max() == 256


def test_a_queue_that_only_grows_has_no_waiting_time() -> None:
    card = Card("slow", tokens_per_s=1, ttft_s=0)
    outcome = size(Crowd(per_minute=10), [card] * 9, hours=20, wanted_s=10, seed=1)
    assert outcome.utilisation == pytest.approx(10 * 59 / 60 / 9, rel=0.05)
    assert (outcome.wait_s, outcome.too_late) == (None, None)


def test_as_many_cards_as_are_needed_and_no_more() -> None:
    """Against the same answer from Erlang's formula; random lengths, nothing before the first."""
    card, wanted = Card("one", tokens_per_s=10, ttft_s=0), Wanted(wait_s=5, share=0.95)
    # At a spread of 1 a log-normal length waits nearly as an exponential one does (M/G/c).
    crowd = Crowd(per_minute=20, tokens=100, spread=1.0, max_tokens=100_000)
    load, service_s = 20 / 60 * 9.9, 9.9
    enough = next(
        cards
        for cards in range(math.ceil(load), 20)
        if erlang_c(cards, load) * math.exp(-(cards - load) / service_s * 5) <= 0.05
    )
    found = list(outcomes(crowd, [card], wanted, hours=200, seed=3))
    assert [one.cards for one in found] == list(range(1, enough + 1))
    assert [wanted.is_met(one) for one in found] == [False] * (enough - 1) + [True]
    assert found[-1].wait_s is not None
    assert found == list(outcomes(crowd, [card], wanted, hours=200, seed=3))


def test_a_card_is_a_published_model_or_a_speed() -> None:
    model = find_model("qwen3-4b")
    assert model
    card = find_card("Qwen3-4B")
    assert (card.tokens_per_s, card.ttft_s) == (model.speeds[0].tokens_per_s, 1.339)
    assert "published" in card.source
    assert find_card("15/0.4") == Card("15/0.4", 15, 0.4)
    for wrong in ("qwen3-4b-int4", "hello", "0", "nan", "5/-1"):
        with pytest.raises(argparse.ArgumentTypeError):
            find_card(wrong)


def run(command: str) -> list[str]:
    words = command.replace("python ", f"{sys.executable} ", 1).split()
    said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    return said.stdout.splitlines()


def test_the_command_of_the_page_says_that_it_simulates_and_what_it_assumes() -> None:
    page = (ROOT / "docs/fleet.md").read_text()
    first, _ = [block for block in read_blocks("fleet.md", page) if "fleet_sim" in block.code]
    *begin, table, _, goal, line = run(first.code)
    report = json.loads(line)
    assert "SIMULATED" in " ".join(begin)
    assert report["simulated"] is True
    assert report["assumed"]
    assert goal == f"95% wait no longer than 10 s with {report['needed']} cards"
    assert table.split()[0] == str(report["needed"]) == str(len(report["rows"]))
    shown = page.split("```text\n")[1].split("```")[0].splitlines()
    assert [row.split()[:2] for row in shown[1:]] == [row.split()[:2] for row in begin[-2:]] + [
        table.split()[:2]
    ]


def test_the_sizes_of_the_page_are_those_of_the_simulation() -> None:
    """Of two models: all of them take too long."""
    page = (ROOT / "docs/fleet.md").read_text()
    _, block = [block for block in read_blocks("fleet.md", page) if "fleet_sim" in block.code]
    assert "--sizes --hours 100" in block.code
    for model in (MODELS[0], MODELS[3]):
        *_, row = sizes([model], Crowd(), Wanted(10, 0.95), hours=100, seed=1)
        assert row in page.splitlines()
