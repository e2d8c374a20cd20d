"""Speed of the built-in model in one process: ``python -m tests.bench.bench_engine``.

Prints a table and JSON. The engine is the whole of it: chat template, tokenizer, prefill, decode,
sampling, detokenizing. Give a model directory as the argument to measure another one.
"""

import json
import platform
import statistics
import sys
import time
from pathlib import Path

from edge_llm.engine.loading import load_engine
from edge_llm.engine.local import LocalEngine
from edge_llm.protocol import ChatRequest, Delta, Done, Message
from edge_llm.settings import EngineSettings, WorkerSettings

ROUNDS = 15
PROMPT_TOKENS = 300
WORDS = "the sea is wide and the night is long and we talk about the stars while it rains . "


def make_request(engine: LocalEngine, seed: int, *, max_tokens: int) -> ChatRequest:
    """Make a request of ``PROMPT_TOKENS`` tokens that differs from all others from the start."""
    text = f"{seed} " + WORDS * 40
    while True:
        request = ChatRequest(
            messages=(Message(role="user", content=text),),
            max_tokens=max_tokens,
            temperature=0.8,
            top_k=20,
            top_p=0.9,
            repeat_penalty=1.05,
            seed=seed,
        )
        ids = engine.prompter.render(request.conversation, enable_thinking=False)
        if len(ids) <= PROMPT_TOKENS:
            return request
        text = text[: -max(1, len(ids) - PROMPT_TOKENS)]


def measure(engine: LocalEngine, request: ChatRequest) -> tuple[float, float | None, Done]:
    """Return the time to the first token in s, the speed after it in tokens/s, and the end."""
    begin = time.perf_counter()
    first: float | None = None
    for event in engine.generate(request):
        if isinstance(event, Delta) and event.token_ids and first is None:
            first = time.perf_counter()
        if isinstance(event, Done):
            count = event.usage.completion_tokens
            if first is None:
                raise RuntimeError("no token came")
            spent = time.perf_counter() - first
            return first - begin, (count - 1) / spent if count > 1 else None, event
    raise RuntimeError("the engine did not end")


def main() -> None:
    """Measure, and print."""
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    begin = time.perf_counter()
    engine = load_engine(EngineSettings(worker=WorkerSettings(model=model)))
    load_s = time.perf_counter() - begin
    # Bias against the end tokens, so that each answer is as long as it may be.
    no_end = dict.fromkeys(engine.prompter.end_ids, -100.0)
    cold, kept, turn, speeds = [], [], [], []
    prompt_tokens = 0
    for seed in range(ROUNDS):
        request = make_request(engine, seed, max_tokens=100)
        request = request.model_copy(update={"logit_bias": no_end})
        ttft_s, speed, done = measure(engine, request)
        prompt_tokens = done.usage.prompt_tokens
        cold.append(ttft_s)
        speeds.append(speed or 0.0)
        kept.append(measure(engine, request.model_copy(update={"max_tokens": 1}))[0])
        messages = (
            *(request.messages or ()),
            Message(role="assistant", content="Yes."),
            Message(role="user", content="And then?"),
        )
        again = request.model_copy(update={"messages": messages, "max_tokens": 1})
        turn.append(measure(engine, again)[0])
    result = {
        "machine": platform.processor() or platform.machine(),
        "model": engine.info.id,
        "load_s": round(load_s, 2),
        "prompt_tokens": prompt_tokens,
        "ttft_ms": round(statistics.median(cold) * 1e3, 1),
        "ttft_same_prompt_ms": round(statistics.median(kept) * 1e3, 1),
        "ttft_next_turn_ms": round(statistics.median(turn) * 1e3, 1),
        "ttft_kept_share": round(statistics.median(kept) / statistics.median(cold), 3),
        "ttft_next_turn_share": round(statistics.median(turn) / statistics.median(cold), 3),
        "decode_tokens_per_s": round(statistics.median(speeds), 1),
    }
    for name, value in result.items():
        print(f"{name:24} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
