"""How long choosing a token takes, beside the usual way that sorts the whole vocabulary.

Run it with ``python -m tests.bench.bench_sampling``; it prints a table, then the same as JSON.
"""

import json
import platform
import random
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge_llm.engine.sampling import Sampler, SamplingParams

VOCAB_SIZE, NUM_LOGITS = 151_669, 151_936  # Qwen3's tokens, and the rows of its logits
NUM_RECENT = 256
NUM_RUNS = 400
BAR_MS = 0.5  # for the first case, on a desktop CPU

Logits = NDArray[np.float32]

CASES = {
    "usual chat": SamplingParams(
        temperature=0.7,
        top_k=20,
        top_p=0.9,
        repeat_penalty=1.1,
        repeat_last_n=NUM_RECENT,
        seed=1,
    ),
    "greedy": SamplingParams(),
    "top_p only": SamplingParams(temperature=0.7, top_p=0.9, seed=1),
    "no filter": SamplingParams(temperature=1.0, seed=1),
}


def sample_by_sorting(
    logits: Logits, params: SamplingParams, recent: list[int], dice: np.random.Generator
) -> int:
    """Choose as most Python code does: sort all logits, then cut."""
    logits = logits[:VOCAB_SIZE]
    if params.repeat_penalty != 1:
        for token_id in set(recent):
            score = logits[token_id]
            factor = 1 / params.repeat_penalty if score > 0 else params.repeat_penalty
            logits[token_id] = score * factor
    if params.temperature == 0:
        return int(np.argsort(-logits)[0])
    order = np.argsort(-logits)
    if params.top_k:
        order = order[: params.top_k]
    scaled = logits[order].astype(np.float64) / params.temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    if params.top_p < 1:
        num_kept = int(np.searchsorted(np.cumsum(probabilities), params.top_p)) + 1
        order, probabilities = order[:num_kept], probabilities[:num_kept]
        probabilities /= probabilities.sum()
    return int(dice.choice(order, p=probabilities))


def measure(choose: Callable[[Logits], int], logits: list[Logits]) -> tuple[float, float]:
    """Return median and p99 of one choice in ms."""
    times = []
    for run in range(NUM_RUNS):
        fresh = logits[run % len(logits)].copy()
        begin = time.perf_counter()
        choose(fresh)
        times.append((time.perf_counter() - begin) * 1000)
    return float(np.median(times)), float(np.percentile(times, 99))


def make_logits(count: int) -> list[Logits]:
    """Draw logits shaped like a chat model's: a broad bell, and a few tokens far above it."""
    dice = np.random.default_rng(0)
    drawn = []
    for _ in range(count):
        logits = dice.normal(0, 2.5, NUM_LOGITS).astype(np.float32)
        peaks = dice.integers(0, VOCAB_SIZE, 30)
        logits[peaks] += np.linspace(16, 4, 30, dtype=np.float32)
        drawn.append(logits)
    return drawn


def main() -> None:
    """Measure all cases, and print them."""
    logits = make_logits(16)
    recent = random.Random(0).sample(range(VOCAB_SIZE), NUM_RECENT)
    rows = []
    for name, params in CASES.items():
        sampler = Sampler(params, VOCAB_SIZE, recent)
        dice = np.random.default_rng(1)
        ours, ours_p99 = measure(sampler.sample, logits)
        sorting, sorting_p99 = measure(
            lambda given, params=params, dice=dice: sample_by_sorting(  # type: ignore[misc]
                given, params, recent, dice
            ),
            logits,
        )
        rows.append(
            {
                "case": name,
                "median_ms": round(ours, 3),
                "p99_ms": round(ours_p99, 3),
                "sorting_median_ms": round(sorting, 3),
                "sorting_p99_ms": round(sorting_p99, 3),
                "ratio": round(sorting / ours, 1),
            }
        )
    print(f"{'case':<12}{'median':>9}{'p99':>9}{'sorting':>10}{'p99':>9}{'ratio':>8}   (ms)")
    for row in rows:
        print(
            f"{row['case']:<12}{row['median_ms']:>9}{row['p99_ms']:>9}"
            f"{row['sorting_median_ms']:>10}{row['sorting_p99_ms']:>9}{row['ratio']:>8}"
        )
    print(
        json.dumps(
            {
                "vocab_size": NUM_LOGITS,
                "recent_tokens": NUM_RECENT,
                "runs": NUM_RUNS,
                "machine": platform.machine(),
                "python": platform.python_version(),
                "numpy": np.__version__,
                "bar_ms": BAR_MS,
                "results": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
