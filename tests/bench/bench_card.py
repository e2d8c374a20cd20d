"""What a token costs on the card: calls and bytes counted, speed predicted, host time measured.

Run it with ``python -m tests.bench.bench_card``; it prints tables, then the same as JSON. The card
is the virtual one with hollow models, which have the shapes but no weights: the counts are exact,
the predicted speed is that of its cost model (``tests/virtual_ax650/README.md``, calibrated on
published speeds), and the host's time is this machine's.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edge_llm.engine.answer import Answer
from edge_llm.engine.prompt import load_prompter
from edge_llm.engine.sampling import Sampler, SamplingParams
from edge_llm.engine.worker.frames import Happened, encode
from edge_llm.npu.card import SAFE, VARIANTS
from edge_llm.protocol import Message
from edge_llm.tiny import MODEL_DIR
from tests.cards import CardModel, open_model
from tests.virtual_ax650.card import open_card
from tests.virtual_ax650.cost_check import POINTS, check, format_table
from tests.virtual_ax650.pack import GEOMETRIES, pack_hollow
from tests.virtual_ax650.schemes import CopyingLoop, Loop, VendorLoop, start_runtime, stop_runtime

MODELS = ("qwen3-4b", "qwen3-1.7b", "qwen3-0.6b")
NUM_TOKENS = 4
NUM_TIMED = 200
TOKENIZER_VOCAB = 151_669
CALLS = "card's calls (not the host's)"
COPYING_PYTHON_S = 0.054  # of the copying loop, as published for 4B; not counted for the others

COUNTED = ("h2d_bytes", "d2h_bytes", "d2d_bytes", "h2d_copies", "d2h_copies", "d2d_copies")


def per_token(card: Any, feed: Callable[[], Any]) -> dict[str, float]:
    """Count one token, after one that is not counted."""
    feed()
    card.reset_counters()
    for _ in range(NUM_TOKENS):
        feed()
    counters = card.counters()
    counts: dict[str, float] = {name: counters[name] // NUM_TOKENS for name in COUNTED}
    executes = counters["layer_executes"] + counters["post_executes"]
    counts |= {"executes": executes // NUM_TOKENS, "allocations": counters["allocations"]}
    return counts | {"predicted_s": card.seconds / NUM_TOKENS}


@contextmanager
def hollow(name: str, last_n: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield pack_hollow(GEOMETRIES[name], Path(folder), last_n=last_n, ladder=())


def count_loop(loop: type[Loop], path: Path) -> dict[str, float]:
    with open_card(COST="on") as card:
        device = start_runtime(card.axcl)
        with loop(card.axcl, path) as running:
            counts = per_token(card, lambda: running.feed([1]))
        stop_runtime(card.axcl, device)
    return counts


def count_ours(path: Path, variant: Any) -> dict[str, float]:
    with open_model(path, variant=variant, COST="on") as model:
        runner = model.runner()
        list(runner.prefill([1, 2, 3]))
        return per_token(model.card, lambda: runner.decode(1))


def count(name: str, last_n: int) -> dict[str, dict[str, float]]:
    """All ways of driving the card, on one model."""
    with hollow(name, last_n) as path:
        return {
            "copying Python loop": count_loop(CopyingLoop, path),
            "vendor's C++ scheme": count_loop(VendorLoop, path),
            **{f"edge-llm, {variant}": count_ours(path, variant) for variant in VARIANTS},
        }


def show(name: str, last_n: int, counts: dict[str, dict[str, float]]) -> None:
    print(f"\n{name}, {last_n} rows, per decoded token")
    print("| | up KB | down KB | on the card KB | copies | executes | allocations | predicted |")
    print("|---|---|---|---|---|---|---|---|")
    for way, of in counts.items():
        copies = sum(of[f"{direction}_copies"] for direction in ("h2d", "d2h", "d2d"))
        python_s = COPYING_PYTHON_S if way.startswith("copying") else 0.0
        seconds = of["predicted_s"] + python_s
        print(
            f"| {way} | {of['h2d_bytes'] / 1e3:.1f} | {of['d2h_bytes'] / 1e3:.1f} "
            f"| {of['d2d_bytes'] / 1e3:.1f} | {copies} | {of['executes']} | {of['allocations']} "
            f"| {seconds * 1e3:.0f} ms, {1 / seconds:.2f}/s |"
        )


def measure_host(model: CardModel) -> dict[str, float]:
    """Where this machine's time goes in a token: all but the card's calls; medians, in ms."""
    runner, stack = model.runner(), model.stack
    list(runner.prefill([1, 2, 3]))
    spent = 0.0

    def timed(call: Any) -> Any:
        def wrapper(*args: Any) -> Any:
            nonlocal spent
            began = time.perf_counter()
            try:
                return call(*args)
            finally:
                spent += time.perf_counter() - began

        return wrapper

    for name in ("_copy", "_copy_async", "_execute", "_execute_async", "_synchronize"):
        setattr(stack, name, timed(getattr(stack, name)))
    sampler = Sampler(SamplingParams(temperature=0.7, top_k=20, top_p=0.9), TOKENIZER_VOCAB, [1, 2])
    steps = []
    for _ in range(NUM_TIMED):
        spent = 0.0
        times = [time.perf_counter()]
        logits = runner.decode(1)
        times.append(time.perf_counter())
        sampler.sample(logits)
        times.append(time.perf_counter())
        model.embedding.rows([1])
        times.append(time.perf_counter())
        decode_s, sample_s, embedding_s = np.diff(times)
        steps.append((embedding_s, decode_s - spent - embedding_s, sample_s, spent))
    names = ("embedding row", "mask, position, bindings, logits", "sampling", CALLS)
    return {name: 1e3 * ms for name, ms in zip(names, np.median(steps, axis=0), strict=True)}


def measure_text(tokenizer: Path) -> dict[str, float]:
    """What turning tokens to text, and text to events for the core, takes; in ms per token."""
    prompter = load_prompter(tokenizer)
    answer = Answer(prompter, ["stop here"], [1])
    rng = np.random.RandomState(1)
    token_ids = [int(n) for n in rng.randint(0, prompter.vocab_size, 2000)]
    token_ids = [n for n in token_ids if n not in prompter.end_ids]
    began = time.perf_counter()
    deltas = [answer.add(token_id) for token_id in token_ids]
    text_s = time.perf_counter() - began
    began = time.perf_counter()
    for delta in deltas:
        encode(Happened(id=1, event=delta))
    events_s = time.perf_counter() - began
    per = 1e3 / len(token_ids)
    return {"detokenizing": text_s * per, "events": events_s * per}


def measure_reuse(model: CardModel, tokenizer: Path, *, thinking: bool) -> list[list[float]]:
    """The share of each turn's prompt that is in the cache, as it is and after settling.

    A system prompt of some 120 tokens, answers of some 60 (facts/http.md, section 4).
    """
    prompter, reuse = load_prompter(tokenizer), []
    for settles in (False, True):
        runner, shares = model.runner(), []
        turns = [
            Message(role="system", content="You are a coyote who watches over the city. " * 13)
        ]
        for number in range(4):
            turns.append(Message(role="user", content=f"What did you see on night {number}?"))
            prompt = prompter.render(turns, enable_thinking=thinking)
            if number:
                shares.append(runner.shared_prefix_len(prompt) / len(prompt))
            said = f"On night {number} a fox came by, and we looked at the river for a while. " * 3
            thought = "<think>\nThey ask about a night.\n</think>\n\n" if thinking else ""
            list(runner.prefill([*prompt, *prompter.tokenize(thought + said)]))
            turns.append(Message(role="assistant", content=said))
            if settles:
                list(runner.prefill(prompter.render_history(turns)))
        reuse.append(shares)
    return reuse


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--tokenizer", type=Path, default=MODEL_DIR / "tokenizer", help="whose text to make"
    )
    args = parser.parse_args()
    results: dict[str, Any] = {"machine": platform.machine()}
    print("The cost model against published speeds")
    points = []
    for point in POINTS:
        with tempfile.TemporaryDirectory() as folder:
            points.append(check(point, Path(folder)))
    print(format_table(points))
    for name, last_n in [("qwen3-4b", 2047), *((name, 1023) for name in MODELS)]:
        results[f"{name}/{last_n}"] = counts = count(name, last_n)
        show(name, last_n, counts)
    with hollow("qwen3-4b", 1023) as path:
        for variant in (VARIANTS[0], SAFE):
            with open_model(path, variant=variant) as model:
                host = measure_host(model) | measure_text(args.tokenizer)
                results[f"host ms, {variant}"] = host
            total = sum(ms for what, ms in host.items() if what != CALLS)
            print(f"\nhost time per token, Qwen3-4B, {variant}: {total:.2f} ms")
            for what, ms in host.items():
                print(f"| {what} | {ms:.3f} ms |")
    with hollow("qwen3-0.6b", 1023) as path, open_model(path, variant=VARIANTS[0]) as model:
        for thinking in (False, True):
            plain, settled = measure_reuse(model, args.tokenizer, thinking=thinking)
            results[f"reuse, thinking {thinking}"] = {"plain": plain, "settled": settled}
            print(f"\nprompt in the cache at turns 2, 3, 4, thinking {'on' if thinking else 'off'}")
            for what, shares in (("as it is", plain), ("after settling", settled)):
                print(f"| {what} | " + " | ".join(f"{share:.0%}" for share in shares) + " |")
    print(json.dumps(results, default=float))


if __name__ == "__main__":
    np.seterr(all="ignore")  # hollow logits are a pattern
    main()
