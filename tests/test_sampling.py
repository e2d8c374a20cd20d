"""Choosing a token: the exact candidates, the right shares, and the same draw for the same seed."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_llm.engine.sampling import BLOCK, Sampler, SamplingParams, top_k_ids

Logits = NDArray[np.float32]

QWEN_VOCAB = 151_936
SIZES = (1, 2, 20, BLOCK - 1, BLOCK, BLOCK + 1, 1000, 10_000, QWEN_VOCAB)


def draw_logits(size: int, seed: int = 0, scale: float = 3.0) -> Logits:
    return np.random.default_rng(seed).normal(0, scale, size).astype(np.float32)


def draw(logits: Logits, count: int, **params: Any) -> Counter[int]:
    """Return how often each token is chosen from these logits."""
    sampler = Sampler(SamplingParams(**{"temperature": 1.0, "seed": 1, **params}), logits.size)
    return Counter(sampler.sample(logits.copy()) for _ in range(count))


def reference(
    logits: Logits,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> NDArray[np.float64]:
    """Return the probability of each token, by sorting everything in float64."""
    order = np.argsort(-logits, kind="stable")
    kept = order[:top_k] if top_k else order
    scaled = logits[kept].astype(np.float64) / temperature
    shares = np.exp(scaled - scaled.max())
    shares /= shares.sum()
    num_kept = int(np.searchsorted(np.cumsum(shares), top_p)) + 1 if top_p < 1 else shares.size
    kept, shares = kept[:num_kept], shares[:num_kept]
    shares = np.where(shares >= min_p * shares[0], shares, 0)
    probabilities = np.zeros(logits.size)
    probabilities[kept] = shares / shares.sum()
    return probabilities


def raised(size: int, part: slice) -> Logits:
    logits = draw_logits(size)
    logits[part] += 100
    return logits


def mostly_impossible(size: int) -> Logits:
    logits = np.full(size, -np.inf, np.float32)
    logits[:: max(1, size // 7)] = 1
    return logits


def integers(size: int, low: int, high: int) -> Logits:
    return np.random.default_rng(3).integers(low, high, size).astype(np.float32)


ADVERSARIAL: dict[str, Callable[[int], Logits]] = {
    "random": draw_logits,
    "all equal": lambda size: np.full(size, 1.5, np.float32),
    "two values": lambda size: integers(size, 0, 2),
    "many ties": lambda size: integers(size, -5, 5),
    "rising": lambda size: np.arange(size, dtype=np.float32),
    "falling": lambda size: -np.arange(size, dtype=np.float32),
    "neighbours lead": lambda size: raised(size, slice(size // 2, size // 2 + 50)),
    "the rest after the last block leads": lambda size: raised(size, slice(-100, None)),
    "mostly -inf": mostly_impossible,
    "zeros of both signs": lambda size: np.copysign(np.float32(0), draw_logits(size)),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_top_k_finds_what_sorting_finds(name: str, size: int) -> None:
    logits = ADVERSARIAL[name](size)
    for k in (1, 2, 20, 40, 255, 600):
        if k >= size:
            continue
        ids = top_k_ids(logits, k)
        assert ids.size == k
        assert np.unique(ids).size == k
        found = np.sort(logits[ids])
        assert np.array_equal(found, np.sort(logits)[-k:])
        # Whatever is above the smallest of them must be in, ties or not.
        assert set(np.flatnonzero(logits > found[0]).tolist()) <= set(ids.tolist())


@pytest.mark.parametrize("size", [7, 1000, QWEN_VOCAB])
def test_greedy_takes_the_likeliest(size: int) -> None:
    for seed in range(5):
        logits = draw_logits(size, seed)
        sampler = Sampler(SamplingParams(temperature=0), size)
        assert sampler.sample(logits.copy()) == int(np.argsort(-logits, kind="stable")[0])


def test_greedy_takes_the_first_of_equals() -> None:
    sampler = Sampler(SamplingParams(temperature=0), 1000)
    assert sampler.sample(np.full(1000, -2, np.float32)) == 0


DISTRIBUTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.4},
    {"temperature": 1.7},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 40},
    {"top_p": 0.9},
    {"top_p": 0.1},
    {"top_p": 0.999},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_k": 8, "top_p": 0.8},
    {"top_p": 0.95, "min_p": 0.05},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.02},
]


@pytest.mark.parametrize("params", DISTRIBUTIONS, ids=str)
@pytest.mark.parametrize("size", [12, 700])
def test_tokens_come_as_often_as_they_should(size: int, params: dict[str, Any]) -> None:
    logits = draw_logits(size, seed=size, scale=1.5)
    expected = reference(logits, **params)
    count = 6000
    chosen = draw(logits, count, **params)
    assert set(chosen) <= set(np.flatnonzero(expected > 0).tolist())
    # Pearson's chi-square, with rare tokens taken together; the seed is fixed, so no luck needed.
    often = expected * count >= 5
    observed = np.array(
        [chosen[token_id] for token_id in np.flatnonzero(often).tolist()], np.float64
    )
    wanted = expected[often] * count
    observed = np.append(observed, count - observed.sum())
    wanted = np.append(wanted, max(count - wanted.sum(), 1e-9))
    statistic = float(((observed - wanted) ** 2 / np.maximum(wanted, 1)).sum())
    freedom = max(observed.size - 1, 1)
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_the_nucleus_is_the_one_that_sorting_finds(top_p: float, scale: float) -> None:
    """Each token of the nucleus can be drawn, and no other: found by asking at every share."""
    logits = draw_logits(300, seed=7, scale=scale)
    expected = reference(logits, top_p=top_p)
    sampler = Sampler(SamplingParams(temperature=1.0, top_p=top_p), logits.size)
    chosen = set()
    for share in np.linspace(0, 1, 4000, endpoint=False):
        sampler._random = _Fixed(float(share))  # type: ignore[assignment]
        chosen.add(sampler.sample(logits.copy()))
    assert chosen <= set(np.flatnonzero(expected > 0).tolist())
    assert chosen >= set(np.flatnonzero(expected > 5e-4).tolist())


class _Fixed:
    """Random numbers that are not."""

    def __init__(self, share: float) -> None:
        self._share = share

    def random(self) -> float:
        return self._share


@pytest.mark.parametrize(
    "params", [{}, {"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.1}, {"temperature": 2.0}], ids=str
)
def test_draws_at_both_ends_are_candidates(params: dict[str, Any]) -> None:
    logits = draw_logits(QWEN_VOCAB)
    logits[:500] = logits[-500:] = -np.inf
    sampler = Sampler(SamplingParams(**{"temperature": 1.0, **params}), logits.size)
    for share in (0.0, np.nextafter(0, 1), 0.5, np.nextafter(1, 0)):
        sampler._random = _Fixed(float(share))  # type: ignore[assignment]
        assert np.isfinite(logits[sampler.sample(logits.copy())])


def test_a_whole_vocabulary_is_drawn_as_its_running_sum_says() -> None:
    logits = draw_logits(QWEN_VOCAB, scale=1.0)
    weights = np.exp(logits.astype(np.float64) - logits.max())
    sums = np.cumsum(weights)
    sampler = Sampler(SamplingParams(temperature=1.0), logits.size)
    for share in np.random.default_rng(0).random(200):
        sampler._random = _Fixed(float(share))  # type: ignore[assignment]
        wanted = int(np.searchsorted(sums, share * sums[-1], side="right"))
        assert abs(sampler.sample(logits.copy()) - wanted) <= 1  # sums differ in the last digits


def test_top_p_of_a_whole_vocabulary_draws_from_the_nucleus() -> None:
    logits = draw_logits(QWEN_VOCAB, scale=2.5)
    nucleus = reference(logits, temperature=0.7, top_p=0.9) > 0
    assert all(nucleus[token_id] for token_id in draw(logits, 300, temperature=0.7, top_p=0.9))


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_any_finite_logits_give_a_candidate(name: str) -> None:
    logits = ADVERSARIAL[name](1000)
    for params in DISTRIBUTIONS:
        for token_id in draw(logits, 20, **params):
            assert np.isfinite(logits[token_id])


def test_a_tiny_temperature_is_almost_greedy() -> None:
    logits = draw_logits(1000)
    assert set(draw(logits, 50, temperature=1e-30)) == {int(logits.argmax())}


def penalized(logits: list[float], history: list[int], answer: list[int], **params: Any) -> Logits:
    """Return the logits as the sampler sees them before it chooses."""
    sampler = Sampler(SamplingParams(temperature=0, **params), len(logits), history)
    sampler.accept(answer)
    seen = np.array(logits, np.float32)
    sampler.sample(seen)
    return seen


def test_repeat_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    seen = penalized([4, -4, 0, 2], history=[0, 1, 1, 2], answer=[], repeat_penalty=2.0)
    assert seen.tolist() == [2, -8, 0, 2]


@pytest.mark.parametrize(
    ("last_n", "expected"),
    [(0, [8, 8, 8, 8]), (1, [8, 8, 8, 4]), (2, [8, 8, 4, 4]), (64, [4] * 4), (-1, [4] * 4)],
)
def test_repeat_penalty_looks_back_over_answer_and_prompt(
    last_n: int, expected: list[float]
) -> None:
    seen = penalized(
        [8] * 4, history=[0, 1], answer=[2, 3], repeat_penalty=2.0, repeat_last_n=last_n
    )
    assert seen.tolist() == expected


def test_repeat_penalty_ignores_prompt_tokens_past_the_vocabulary() -> None:
    assert penalized([8, 8], history=[1, 500], answer=[], repeat_penalty=2.0).tolist() == [8, 4]


def test_frequency_penalty_counts_the_answer_only() -> None:
    seen = penalized([5] * 4, history=[3, 3], answer=[0, 0, 1], frequency_penalty=0.5)
    assert seen.tolist() == [4, 4.5, 5, 5]


def test_presence_penalty_is_subtracted_once() -> None:
    seen = penalized([5] * 4, history=[3], answer=[0, 0, 1], presence_penalty=0.5)
    assert seen.tolist() == [4.5, 4.5, 5, 5]


def test_penalties_add_up() -> None:
    seen = penalized(
        [8, 8, 8],
        history=[2],
        answer=[0],
        repeat_penalty=2.0,
        frequency_penalty=1.0,
        presence_penalty=-0.5,
        logit_bias={1: 3.0},
    )
    assert seen.tolist() == [3.5, 11, 4]


def test_sampled_tokens_count_as_the_answer() -> None:
    sampler = Sampler(SamplingParams(temperature=0, presence_penalty=2.0), 3)
    assert [sampler.sample(np.array([3, 2, 0], np.float32)) for _ in range(4)] == [0, 1, 0, 0]


def test_logit_bias_bans_and_forces() -> None:
    logits = draw_logits(100)
    banned = dict.fromkeys(np.argsort(-logits)[:30].tolist(), -100.0)
    assert not set(banned) & set(draw(logits, 500, logit_bias=banned))
    assert set(draw(logits, 50, logit_bias={42: 100.0})) == {42}


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {},
        {"top_k": 20},
        {"top_p": 0.9},
        {"logit_bias": {151_700: 100.0}},
        {"temperature": 0.0, "logit_bias": {151_700: 100.0}},
    ],
    ids=str,
)
def test_ids_past_the_vocabulary_are_never_chosen(params: dict[str, Any]) -> None:
    vocab_size = 151_669  # Qwen3: the logits have 267 rows that no token has
    logits = draw_logits(QWEN_VOCAB)
    logits[vocab_size:] = 50
    sampler = Sampler(SamplingParams(**{"temperature": 1.5, "seed": 2, **params}), vocab_size)
    assert all(sampler.sample(logits.copy()) < vocab_size for _ in range(30))


def run(sampler: Sampler, count: int, start: int = 0) -> list[int]:
    return [sampler.sample(draw_logits(500, seed)) for seed in range(start, start + count)]


PARAMS = SamplingParams(
    temperature=1.2, top_p=0.95, seed=99, repeat_penalty=1.3, presence_penalty=0.4
)


def test_the_same_seed_draws_the_same_tokens() -> None:
    assert run(Sampler(PARAMS, 500), 40) == run(Sampler(PARAMS, 500), 40)


def test_other_seeds_draw_other_tokens() -> None:
    texts = {
        tuple(run(Sampler(SamplingParams(temperature=1.2, seed=seed), 500), 20))
        for seed in (0, 1, 2, -1, 2**63, 2**64 - 2)
    }
    assert len(texts) == 6


def test_without_a_seed_tokens_differ() -> None:
    params = SamplingParams(temperature=2.0)
    assert run(Sampler(params, 500), 20) != run(Sampler(params, 500), 20)


@pytest.mark.parametrize("cut", [0, 1, 7, 39])
@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_accept_goes_on_with_the_same_stream(cut: int, temperature: float) -> None:
    params = SamplingParams(
        temperature=temperature, seed=99, repeat_penalty=1.3, frequency_penalty=0.4
    )
    whole = run(Sampler(params, 500, prompt_ids=[1, 2]), 40)
    resumed = Sampler(params, 500, prompt_ids=[1, 2])
    resumed.accept(whole[:cut])
    assert run(resumed, 40 - cut, start=cut) == whole[cut:]


@pytest.mark.parametrize("num_allowed", [1, 3, 40, 5000, 20_000])
@pytest.mark.parametrize(
    "params", [{}, {"top_k": 20}, {"top_p": 0.5}, {"min_p": 0.1}, {"temperature": 0.0}]
)
def test_only_what_is_allowed_is_chosen(num_allowed: int, params: dict[str, Any]) -> None:
    dice = np.random.default_rng(num_allowed)
    vocab_size = 30_000
    allowed = np.zeros(vocab_size, np.bool_)
    allowed[dice.permutation(vocab_size)[:num_allowed]] = True
    params = {"temperature": 2.0, **params}
    bias = {int(token_id): 100.0 for token_id in np.flatnonzero(~allowed)[:50]}
    sampler = Sampler(SamplingParams(seed=1, logit_bias=bias, **params), vocab_size)
    for _ in range(20):
        logits = dice.normal(0, 5, vocab_size + 9).astype(np.float32)
        best = int(np.where(allowed, logits[:vocab_size], -np.inf).argmax())
        token_id = sampler.sample(logits, allowed)
        assert allowed[token_id]
        if params["temperature"] == 0:
            assert token_id == best


def test_what_is_allowed_keeps_its_shares() -> None:
    allowed = np.array([True, False, True, False])
    sampler = Sampler(SamplingParams(temperature=1.0, seed=3), 4)
    logits = np.log(np.array([0.1, 0.5, 0.3, 0.1], np.float32))
    counts = Counter(sampler.sample(logits.copy(), allowed) for _ in range(4000))
    assert set(counts) == {0, 2}
    assert counts[2] / 4000 == pytest.approx(0.75, abs=0.03)


def test_a_token_draws_one_number_whether_chosen_forced_or_corrected() -> None:
    def draws(steps: Sequence[str]) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.0, seed=3, frequency_penalty=1.0), 50)
        made = []
        for step in steps:
            if step == "forced":
                sampler.accept([7])
                continue
            made.append(sampler.sample(np.zeros(50, np.float32)))
            if step == "corrected":
                sampler.correct(7)
        return made

    sampled = draws(["chosen", "forced", "chosen", "chosen"])
    assert draws(["chosen", "corrected", "chosen", "chosen"])[2:] == sampled[1:]
