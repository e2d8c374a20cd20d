"""Trains the built-in model: `python -m edge_llm.tiny.train --out DIR`.

Rounds over dialogues of the grammar, each of them seen once; the data, their order and the schedule
follow from `recipe.py` alone. DIR is a Hugging Face directory at every checkpoint and at
the end; `edge-llm export --overwrite --name edge-llm-tiny DIR edge_llm/tiny/model` makes the model
directory of it.
"""

import argparse
import gc
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from edge_llm.tiny.grammar import make_dialogues
from edge_llm.tiny.recipe import ROUNDS, Round
from edge_llm.tiny.rows import Row, encode, pack
from edge_llm.tiny.tokenizer import ADDED_TOKENS, VOCAB_SIZE, train_tokenizer

NUM_THREADS = 2
TOKENIZER_DIALOGUES = 30_000
ROW_LEN = 512
LONG_ROW_LEN = 1024
BATCH_TOKENS = 6144
MUON_LR = 0.02
ADAM_LR = 3e-3
WARMUP_STEPS = 40
LAST_LR_SHARE = 0.02
CHECKPOINT_EVERY_S = 300.0
LOG_EVERY_STEPS = 20

GEOMETRY: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 192,
    "intermediate_size": 576,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": LONG_ROW_LEN,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "tie_word_embeddings": True,
}
ROPE_THETA = 10_000.0
END_ID = VOCAB_SIZE - len(ADDED_TOKENS) - 1  # <|im_end|>, the last of the special tokens
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    **GEOMETRY,
    "rope_theta": ROPE_THETA,
    "rope_scaling": None,
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": GEOMETRY["num_hidden_layers"],
    "use_cache": True,
    "bos_token_id": None,
    "eos_token_id": END_ID,
    "pad_token_id": END_ID - 2,
    "torch_dtype": "bfloat16",
}


class Muon(torch.optim.Optimizer):  # type: ignore[misc]
    """Momentum whose update is made orthogonal, for the weight matrices of the layers.

    https://kellerjordan.github.io/posts/muon/
    """

    def __init__(self, weights: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: object = None) -> None:
        """One update of all weights; `closure` is not used."""
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                velocity = state.setdefault("velocity", torch.zeros_like(weight))
                velocity.lerp_(weight.grad, 1.0 - group["momentum"])
                update = orthogonal(weight.grad.lerp(velocity, group["momentum"]))
                scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """The matrix with its singular values brought near one, by Newton-Schulz iterations."""
    a, b, c = 3.4445, -4.7750, 2.0315  # the quintic of the Muon post
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def make_model(seed: int) -> Qwen3ForCausalLM:
    """The model with random weights."""
    torch.manual_seed(seed)
    config = Qwen3Config(**GEOMETRY, rope_theta=ROPE_THETA, attn_implementation="sdpa")
    return Qwen3ForCausalLM(config)


def make_batches(tokenizer: Tokenizer, plan: Round) -> list[list[Row]]:
    """All batches of a round, in their order; the long rows spread among the others."""
    short: list[Row] = []
    long: list[Row] = []
    for row in encode(tokenizer, plan.dialogues()):
        if len(row.ids) <= LONG_ROW_LEN:
            (short if len(row.ids) <= ROW_LEN else long).append(row)
    batches = [*_batches(short, ROW_LEN), *_batches(long, LONG_ROW_LEN)]
    random.Random(plan.seed).shuffle(batches)
    return batches[: plan.num_steps]


def _batches(rows: list[Row], row_len: int) -> Iterator[list[Row]]:
    packed = list(pack(rows, row_len))
    size = BATCH_TOKENS // row_len
    for start in range(0, len(packed) - size + 1, size):
        yield packed[start : start + size]


def batch_loss(model: Qwen3ForCausalLM, batch: list[Row]) -> Tensor:
    """Cross entropy per token of the assistant; what the others count, `rows` says.

    No token sees another dialogue.
    """
    ids = torch.tensor(np.array([row.ids for row in batch]))
    dialogue_ids = torch.tensor(np.array([row.dialogue_ids for row in batch]))
    weights = torch.tensor(np.array([row.weights for row in batch], np.float32))[:, 1:]
    row_len = ids.shape[1]
    causal = torch.ones(row_len, row_len, dtype=torch.bool).tril()
    mask = (dialogue_ids[:, :, None] == dialogue_ids[:, None, :]) & causal
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids, attention_mask=mask[:, None]).last_hidden_state
        logits = model.lm_head(hidden[:, :-1])
    losses = nn.functional.cross_entropy(
        logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    same = (dialogue_ids[:, 1:] == dialogue_ids[:, :-1]) & (dialogue_ids[:, 1:] >= 0)
    weights = (weights * same).flatten()
    return (losses * weights).sum() / (weights == 1.0).sum()


def lr_share(step: int, num_steps: int) -> float:
    """Warm-up, then a cosine down to a small rest."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return LAST_LR_SHARE + (1 - LAST_LR_SHARE) * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def make_optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    adam = torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.98), weight_decay=0.0)
    optimizers: list[torch.optim.Optimizer] = [Muon(matrices, MUON_LR), adam]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def train(model: Qwen3ForCausalLM, batches: list[list[Row]], out_dir: Path, peak: float) -> None:
    """Runs over the batches once, with checkpoints in between."""
    gc.freeze()  # each full collection would look at every token id of all batches
    optimizers = make_optimizers(model)
    started = saved = time.monotonic()
    for step, batch in enumerate(batches):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * peak * lr_share(step, len(batches))
        loss = batch_loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        now = time.monotonic()
        if (step + 1) % LOG_EVERY_STEPS == 0:
            _report(step + 1, len(batches), loss.item(), now - started)
        if now - saved > CHECKPOINT_EVERY_S:
            saved = now
            save(model, out_dir)


def _report(step: int, num_steps: int, loss: float, elapsed_s: float) -> None:
    tokens_per_s = step * BATCH_TOKENS / elapsed_s
    left_s = elapsed_s / step * (num_steps - step)
    print(
        f"step {step}/{num_steps}  loss {loss:.4f}  {tokens_per_s:.0f} tokens/s"
        f"  {elapsed_s:.0f} s done, {left_s:.0f} s left",
        flush=True,
    )


def round_weights(model: Qwen3ForCausalLM) -> None:
    """Round the weights as they are stored; not the buffers, which hold the angles of RoPE."""
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16).to(torch.float32)


def save(model: Qwen3ForCausalLM, out_dir: Path) -> None:
    """Writes config.json and the weights, rounded to bfloat16."""
    (out_dir / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    weights = {
        name: weight.detach().to(torch.bfloat16).contiguous()
        for name, weight in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    weights_path = out_dir / "model.safetensors"
    save_file(weights, weights_path, metadata={"format": "pt"})
    weights_path.chmod(0o644)  # safetensors leaves it readable by its owner alone


def main() -> None:
    """Reads the arguments, and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(NUM_THREADS)
    torch.use_deterministic_algorithms(True)
    sample = make_dialogues(ROUNDS[0].seed, TOKENIZER_DIALOGUES)
    train_tokenizer((m["content"] for d in sample for m in d), args.out)
    tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    model = make_model(ROUNDS[0].seed)
    num_parameters = sum(p.numel() for p in model.parameters())
    for plan in ROUNDS:
        batches = make_batches(tokenizer, plan)
        print(f"{num_parameters} parameters, {len(batches)} batches of {BATCH_TOKENS}", flush=True)
        train(model, batches, args.out, plan.peak)
        round_weights(model)
        save(model, args.out)


if __name__ == "__main__":
    main()
