"""Make ``golden.json``: greedy tokens as transformers computes them, in float32.

Run from the top of the checkout, with the extra ``[train]`` installed::

    PYTHONPATH=. python tests/data/make_golden.py

The form of the file::

    {"made_with": {"transformers": "5.13.0", ...},
     "models": {
       "builtin": {"sha256": "...", "cases": [CASE, ...]},         50 cases
       "qwen3":   {"kind": "qwen3", "seed": 0, "cases": [...]},    10 cases
       "qwen2":   {"kind": "qwen2", "seed": 0, "cases": [...]}}}   10 cases

    CASE = {"prompt": [token ids], "completion": [24 token ids], "margin": logits}

``builtin`` is the model directory ``edge_llm/tiny/model``, whose weights are read back from its
graphs; ``sha256`` is what ``fingerprint`` below gives, and changes with the model. The others are
what ``tests/tiny_random_model.py`` writes for that kind and seed; their completions have no end
token in them. The built-in model's go on after an end token: compare up to the first one if
generation stops there. ``margin`` is the smallest lead of a likeliest token over the second, in
logits; cases under ``MIN_MARGIN`` are replaced, because another order of summing could decide them
the other way.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import torch
import transformers
from numpy.typing import NDArray

from tests.tiny_random_model import END_TOKEN_IDS, Kind, make_config, make_weights

DATA = Path(__file__).parent
BUILTIN = DATA.parents[1] / "edge_llm" / "tiny" / "model"

COMPLETION_LEN = 24
MIN_MARGIN = 2e-3
"""Logits; float32 sums in another order differ by about 1e-5."""

BUILTIN_LENGTHS = (1, 2, 3, 7, 15, 16, 17, 31, 64, 100, 127, 128, 129, 200, 255, 256, 257, 384, 500)
LONG_LENGTHS = (511, 512, 513, 640, 700, 768, 800, 899, 900)
RANDOM_LENGTHS = (1, 2, 15, 16, 17, 100, 127, 128, 129, 300)
NUM_CHATS = 18

TURNS = (
    "Hello!",
    "Who are you?",
    "What can you do?",
    "How are you today?",
    "What is 12 plus 7?",
    "Tell me something about the sea.",
    "Why is the sky blue?",
    "I am a bit sad.",
    "What colour do you like most?",
    "Do you dream?",
    "Thank you, goodbye!",
)

Weights = dict[str, NDArray[np.float32]]
Prompt = list[int]


def fingerprint(model_dir: Path) -> str:
    """Return a hash over the graphs and the embedding table of a model directory."""
    digest = hashlib.sha256()
    for file in sorted([*model_dir.glob("*.onnx"), *model_dir.glob("*.bin")]):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def read_weights(model_dir: Path) -> Weights:
    """Read the weights back from a model directory, in Hugging Face's names and orientation."""
    weights = {}
    for file in sorted(model_dir.glob("*.onnx")):
        for tensor in onnx.load(file).graph.initializer:
            if tensor.name.startswith(("model.", "lm_head.")):
                weights[tensor.name] = onnx.numpy_helper.to_array(tensor).astype(np.float32).T
    # The logits of a tied model come from the exact table, its inputs from the bfloat16 one.
    if "lm_head.weight" not in weights:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    table = np.fromfile(model_dir / "model.embed_tokens.weight.bfloat16.bin", ml_dtypes.bfloat16)
    hidden_size = weights["lm_head.weight"].shape[1]
    weights["model.embed_tokens.weight"] = table.reshape(-1, hidden_size).astype(np.float32)
    return weights


def make_model(config: dict[str, Any], weights: Weights) -> Any:
    """Build transformers' own model on these weights."""
    weights = dict(weights)
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    settings = {**config, "tie_word_embeddings": False, "dtype": "float32"}
    settings = transformers.AutoConfig.for_model(**settings)
    settings._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    state = {name: torch.tensor(np.ascontiguousarray(value)) for name, value in weights.items()}
    model.load_state_dict(state, strict=True)
    return model.eval()


def complete(model: Any, prompt: Prompt) -> tuple[list[int], float]:
    """Return the greedy completion and its smallest margin."""
    completion: list[int] = []
    margin = float("inf")
    cache = transformers.DynamicCache()
    fed = prompt
    while len(completion) < COMPLETION_LEN:
        with torch.inference_mode():
            logits = model(torch.tensor([fed]), past_key_values=cache, use_cache=True).logits[0, -1]
        first, second = torch.topk(logits, 2).values.tolist()
        margin = min(margin, first - second)
        fed = [int(logits.argmax())]
        completion += fed
    return completion, margin


def make_cases(
    model: Any, prompts: Iterator[Callable[[], Prompt]], avoided: frozenset[int] = frozenset()
) -> list[dict[str, Any]]:
    """Complete each prompt; one with a small margin or an avoided token is drawn again."""
    cases = []
    for draw in prompts:
        while True:
            prompt = draw()
            completion, margin = complete(model, prompt)
            if margin >= MIN_MARGIN and avoided.isdisjoint(completion):
                break
        cases.append({"prompt": prompt, "completion": completion, "margin": round(margin, 4)})
        print(".", end="", file=sys.stderr, flush=True)
    return cases


def random_prompts(vocab_size: int, lengths: tuple[int, ...]) -> Iterator[Callable[[], Prompt]]:
    """Yield draws of random token ids."""
    random = np.random.RandomState(1)

    def draw(length: int) -> Prompt:
        ids: Prompt = random.randint(3, vocab_size, length).tolist()
        return ids

    for length in lengths:
        yield partial(draw, length)


def builtin_prompts(model_dir: Path, vocab_size: int) -> Iterator[Callable[[], Prompt]]:
    """Yield draws of chats as they are rendered, of chats cut to length, and of random ids."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir / "tokenizer")
    random = np.random.RandomState(2)

    def chat(num_turns: int) -> Prompt:
        turns = [TURNS[i] for i in random.randint(0, len(TURNS), 2 * num_turns - 1)]
        messages = [
            {"role": "assistant" if i % 2 else "user", "content": turn}
            for i, turn in enumerate(turns)
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids: Prompt = tokenizer.encode(text, add_special_tokens=False)
        return ids

    def cut(length: int) -> Prompt:
        ids: Prompt = []
        while len(ids) < length:
            ids += chat(5)
        return ids[-length:]

    for index in range(NUM_CHATS):
        yield partial(chat, 1 + index // 4)
    for length in BUILTIN_LENGTHS + LONG_LENGTHS:
        yield partial(cut, length)
    yield from random_prompts(vocab_size, (1, 40, 128, 300))


def make_builtin(model_dir: Path) -> dict[str, Any]:
    config = json.loads((model_dir / "tokenizer" / "config.json").read_text())
    model = make_model(config, read_weights(model_dir))
    cases = make_cases(model, builtin_prompts(model_dir, config["vocab_size"]))
    return {"sha256": fingerprint(model_dir), "cases": cases}


def make_random(kind: Kind, seed: int) -> dict[str, Any]:
    config = make_config(kind)
    model = make_model(config, make_weights(config, seed))
    prompts = random_prompts(config["vocab_size"], RANDOM_LENGTHS)
    cases = make_cases(model, prompts, avoided=frozenset(END_TOKEN_IDS))
    return {"kind": kind, "seed": seed, "cases": cases}


def write(golden: dict[str, Any], path: Path) -> None:
    """Write JSON with one case a line, so that a change shows as such."""
    text = json.dumps(golden, indent=1)
    for model in golden["models"].values():
        for case in model["cases"]:
            text = text.replace(
                json.dumps(case, indent=1).replace("\n", "\n    "), json.dumps(case)
            )
    path.write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=BUILTIN, help="the built-in model directory")
    parser.add_argument("--out", type=Path, default=DATA / "golden.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models: dict[str, Any] = {}
    if any(arguments.model.glob("*.onnx")):
        models["builtin"] = make_builtin(arguments.model)
    else:
        print(f"no model in {arguments.model}: 'builtin' is left out", file=sys.stderr)
    models["qwen3"] = make_random("qwen3", 0)
    models["qwen2"] = make_random("qwen2", 0)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    write({"made_with": versions, "models": models}, arguments.out)


if __name__ == "__main__":
    main()
