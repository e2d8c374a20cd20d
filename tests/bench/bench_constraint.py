"""What it costs to hold an answer to a form: ``python -m tests.bench.bench_constraint``.

Masks and compile times are those of the tokenizer in a folder that is given as the argument
(Qwen3's is what matters), else of the built-in model's. What forced tokens save is measured on the
built-in model. Prints tables, then the same as JSON.
"""

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_llm.engine.constraint import Constraint, Constraints
from edge_llm.engine.constraint.ending import EndingFinder
from edge_llm.engine.loading import load_engine
from edge_llm.engine.prompt import Prompter, load_prompter
from edge_llm.engine.sampling import Sampler, SamplingParams
from edge_llm.protocol import ChatRequest, Done
from edge_llm.settings import EngineSettings
from edge_llm.tiny import MODEL_DIR
from tests.schemas import PYDANTIC, SCHEMAS

BAR_MS = 0.5  # a mask, at the vocabulary of Qwen3 on a desktop CPU
NUM_TOKENS = 150
NUM_COMPILED = 50

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
LONG_NAMES = {
    "type": "object",
    "properties": {
        f"the_{word}_measurement_in_millimetres": {"type": "integer", "minimum": 0, "maximum": 9}
        for word in ("first", "second", "third", "fourth")
    },
    "required": [
        f"the_{word}_measurement_in_millimetres" for word in ("first", "second", "third", "fourth")
    ],
}
TOOLS = [
    {"type": "function", "function": {"name": f"tool_{n}", "parameters": PERSON}} for n in range(16)
]


def form(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the field of a request that asks for JSON of a schema."""
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}


FORMS: dict[str, dict[str, Any]] = {
    "any object": {"response_format": {"type": "json_object"}},
    "person": form(PERSON),
    "pydantic": form(PYDANTIC[0]),
    "nested": form(SCHEMAS[-2]),
    "choices": {"choices": ["yes", "no", "I do not know"]},
    "regex": {"response_format": {"type": "regex", "regex": r"[A-Z][a-z ]{10,200}\."}},
    "16 tools, or text": {"tools": TOOLS},
    "16 tools": {"tools": TOOLS, "tool_choice": "required"},
}


def ask(**fields: Any) -> ChatRequest:
    """Make a request from JSON."""
    return ChatRequest.model_validate_json(json.dumps({"prompt": "Hi", "seed": 1, **fields}))


def timed(function: Callable[[], object]) -> float:
    """Return how long a call takes, in ms."""
    begin = time.perf_counter()
    function()
    return (time.perf_counter() - begin) * 1000


def walk(prompter: Prompter, constraint: Constraint, finder: EndingFinder) -> dict[str, float]:
    """Say something that is allowed, and return what masks, draws and ends take meanwhile."""
    free = Sampler(SamplingParams(temperature=1.0, top_k=20, seed=1), prompter.vocab_size)
    bound = Sampler(SamplingParams(temperature=1.0, top_k=20, seed=1), prompter.vocab_size)
    dice = np.random.default_rng(0)
    masks, draws, frees, ends = [], [], [], []
    for _ in range(NUM_TOKENS):
        if constraint.is_over:
            break
        ends.append(timed(lambda: finder.find(constraint, 256)))
        if forced := constraint.forced():
            constraint.accept(forced)
            continue
        logits = dice.normal(0, 3, prompter.vocab_size).astype(np.float32)
        frees.append(timed(lambda logits=logits: free.sample(logits.copy())))  # type: ignore[misc]
        begin = time.perf_counter()
        allowed = constraint.allowed()
        masks.append((time.perf_counter() - begin) * 1000)
        begin = time.perf_counter()
        token_id = bound.sample(logits, allowed)
        draws.append((time.perf_counter() - begin) * 1000)
        if token_id in prompter.end_ids:
            break
        constraint.accept([token_id])
    return {
        "mask_median_ms": round(float(np.median(masks)), 3) if masks else 0.0,
        "mask_max_ms": round(max(masks, default=0.0), 3),
        "draw_median_ms": round(float(np.median(draws)), 3) if draws else 0.0,
        "free_draw_median_ms": round(float(np.median(frees)), 3) if frees else 0.0,
        "end_median_ms": round(float(np.median(ends)), 3),
    }


def measure_forms(prompter: Prompter) -> list[dict[str, Any]]:
    """Measure all forms with one tokenizer."""
    constraints, finder = Constraints(prompter), EndingFinder(prompter)
    rows = []
    first_ms = timed(lambda: constraints.compile(ask(choices=["a"]), "none"))
    print(f"the first request that needs it pays for the tokenizer: {first_ms:.0f} ms\n")
    for name, fields in FORMS.items():
        request = ask(**fields)
        compiles = [
            timed(lambda request=request: constraints.compile(request, "none"))  # type: ignore[misc]
            for _ in range(NUM_COMPILED)
        ]
        constraint = constraints.compile(request, "none")
        if constraint:
            walked = walk(prompter, constraint, finder)
            rows.append(
                {"form": name, "compile_median_ms": round(float(np.median(compiles)), 2), **walked}
            )
    return rows


def measure_runs() -> list[dict[str, Any]]:
    """Return what forced tokens cost on the built-in model, in chunks and in steps."""
    engine = load_engine(EngineSettings())
    measured = dict(engine.runner._run_s)
    request = ask(**form(LONG_NAMES))
    list(engine.generate(request))
    rows = []
    for name, costs in (("as measured", measured), ("steps only", {**measured, 16: 1e9, 128: 1e9})):
        engine.runner._run_s = costs
        times = []
        for _ in range(9):
            begin = time.perf_counter()
            *_, done = engine.generate(request)
            times.append((time.perf_counter() - begin) * 1000)
        if isinstance(done, Done):
            num_tokens = done.usage.completion_tokens
            rows.append(
                {"way": name, "tokens": num_tokens, "ms": round(float(np.median(times)), 1)}
            )
    return rows


def main() -> None:
    """Measure, and print."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL_DIR / "tokenizer"
    prompter = load_prompter(folder)
    forms, runs = measure_forms(prompter), measure_runs()
    names = list(forms[0])
    print(
        f"{'form':<19}"
        + "".join(f"{name.removesuffix('_ms'):>18}" for name in names[1:])
        + "  (ms)"
    )
    for row in forms:
        print(f"{row['form']:<19}" + "".join(f"{row[name]:>18}" for name in names[1:]))
    print(f"\n{'forced tokens':<19}{'tokens':>10}{'ms':>10}")
    for row in runs:
        print(f"{row['way']:<19}{row['tokens']:>10}{row['ms']:>10}")
    print(
        json.dumps(
            {
                "vocab_size": prompter.vocab_size,
                "machine": platform.machine(),
                "python": platform.python_version(),
                "numpy": np.__version__,
                "bar_ms": BAR_MS,
                "forms": forms,
                "runs": runs,
            }
        )
    )


if __name__ == "__main__":
    main()
