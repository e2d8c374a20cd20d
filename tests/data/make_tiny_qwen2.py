"""Train ``tiny_qwen2/``: half a million parameters of the second family, for tests alone.

Run from the top of the checkout, with the extra ``[train]`` installed::

    PYTHONPATH=. python tests/data/make_tiny_qwen2.py

A random model is no measure of rounding: its likeliest tokens are near-ties. This one learned the
grammar of the built-in model a little, with Qwen2.5's biases in q, k and v; it shares the built-in
model's tokenizer.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM

from edge_llm.tiny import MODEL_DIR
from edge_llm.tiny.recipe import Round
from edge_llm.tiny.tokenizer import VOCAB_SIZE
from edge_llm.tiny.train import END_ID, make_batches, round_weights, train

OUT = Path(__file__).parent / "tiny_qwen2"
PLAN = Round(seed=3, num_dialogues=76_000, num_steps=1200, peak=1.0)
GEOMETRY: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
}
ROPE_THETA = 10_000.0


def main() -> None:
    """Train, and write config.json and the weights."""
    torch.manual_seed(PLAN.seed)
    config = Qwen2Config(**GEOMETRY, rope_theta=ROPE_THETA, attn_implementation="sdpa")
    model = Qwen2ForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith("_proj.bias"):
            torch.nn.init.normal_(weight, std=0.1)  # else they would begin at 0
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer" / "tokenizer.json"))
    OUT.mkdir(exist_ok=True)
    train(model, make_batches(tokenizer, PLAN), OUT, PLAN.peak)
    round_weights(model)
    written = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **GEOMETRY,
        "rope_theta": ROPE_THETA,
        "hidden_act": "silu",
        "bos_token_id": None,
        "eos_token_id": END_ID,
        "torch_dtype": "bfloat16",
    }
    (OUT / "config.json").write_text(json.dumps(written, indent=2) + "\n")
    weights = {
        name: weight.detach().to(torch.bfloat16).contiguous()
        for name, weight in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    file = OUT / "model.safetensors"
    save_file(weights, file, metadata={"format": "pt"})
    file.chmod(0o644)


if __name__ == "__main__":
    main()
