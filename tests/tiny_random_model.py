"""Small random checkpoints in Hugging Face's form, written without torch."""

import json
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

__all__ = ["CONFIGS", "END_TOKEN_IDS", "Kind", "make_config", "make_weights", "write_checkpoint"]

Kind = Literal["qwen3", "qwen2"]

END_TOKEN_IDS = (1, 2)

EMBEDDING_STD = 0.08
STD = 0.25
"""Wide enough that the layers outweigh the embedding, and the likeliest token leads clearly."""

CONFIGS: dict[Kind, dict[str, Any]] = {
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 16,
        "hidden_size": 96,
        "intermediate_size": 160,
        "num_attention_heads": 6,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": False,
        "vocab_size": 320,
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 288,
    },
}


def make_config(kind: Kind, **changes: Any) -> dict[str, Any]:
    """Return a ``config.json``."""
    common = {
        "bos_token_id": None,
        "eos_token_id": 1,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "torch_dtype": "bfloat16",
    }
    return {**common, **CONFIGS[kind], **changes}


def make_weights(config: dict[str, Any], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Draw weights by name; every value is exact in bfloat16."""
    random = np.random.RandomState(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim", hidden // config["num_attention_heads"])
    q_len = config["num_attention_heads"] * head_dim
    kv_len = config["num_key_value_heads"] * head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden)
    }
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.self_attn.q_proj.weight": (q_len, hidden),
            f"{layer}.self_attn.k_proj.weight": (kv_len, hidden),
            f"{layer}.self_attn.v_proj.weight": (kv_len, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, q_len),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
        }
        if config["model_type"] == "qwen3":
            shapes[f"{layer}.self_attn.q_norm.weight"] = (head_dim,)
            shapes[f"{layer}.self_attn.k_norm.weight"] = (head_dim,)
        else:
            shapes[f"{layer}.self_attn.q_proj.bias"] = (q_len,)
            shapes[f"{layer}.self_attn.k_proj.bias"] = (kv_len,)
            shapes[f"{layer}.self_attn.v_proj.bias"] = (kv_len,)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return {
        name: (_std(name) * random.standard_normal(shape) + name.endswith("norm.weight"))
        .astype(ml_dtypes.bfloat16)
        .astype(np.float32)
        for name, shape in shapes.items()
    }


def _std(name: str) -> float:
    return EMBEDDING_STD if "embed" in name or "norm" in name else STD


def write_checkpoint(
    path: Path,
    kind: Kind,
    *,
    seed: int = 0,
    dtype: str = "bfloat16",
    num_shards: int = 1,
    weights: dict[str, NDArray[np.float32]] | None = None,
    **changes: Any,
) -> Path:
    """Write a Hugging Face directory, in one safetensors file or in shards; returns ``path``."""
    from safetensors.numpy import save_file

    path.mkdir(parents=True, exist_ok=True)
    config = make_config(kind, **changes)
    (path / "config.json").write_text(json.dumps(config))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": END_TOKEN_IDS}))
    (path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE"}}))
    weights = make_weights(config, seed) if weights is None else weights
    tensors = {name: value.astype(dtype) for name, value in weights.items()}
    if num_shards == 1:
        save_file(tensors, path / "model.safetensors")
        return path
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::num_shards]}
        save_file(part, path / file)
        weight_map |= dict.fromkeys(part, file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path
