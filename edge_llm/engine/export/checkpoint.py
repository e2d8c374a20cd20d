"""Hugging Face checkpoints: what kind of model it is, and its tensors, without torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge_llm.errors import ModelError

__all__ = ["Architecture", "Checkpoint"]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

MODEL_TYPES = ("qwen2", "qwen3")
"""What can be exported: Qwen2 and Qwen2.5, and Qwen3."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers of a decoder of the Qwen family, as its ``config.json`` gives them."""

    model_type: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_context_len: int
    rms_norm_eps: float
    rope_theta: float
    tied: bool
    """The logits come from the embedding table."""
    qk_norm: bool
    """Each head's query and key are normalized before RoPE."""
    qkv_bias: bool
    """The projections to query, key and value have a bias."""
    eos_token_ids: tuple[int, ...]

    @property
    def kv_dim(self) -> int:
        """Values of one K or V row."""
        return self.num_kv_heads * self.head_dim

    @classmethod
    def from_config(cls, path: Path) -> "Architecture":
        """Read a ``config.json``.

        Raises:
            ModelError: it is missing or broken, or asks for something that is not supported.
        """
        config = _read_json(path)
        model_type = config.get("model_type")
        if model_type not in MODEL_TYPES:
            raise ModelError(
                f"{path}: model_type {model_type!r} can't be exported; the ones that can are "
                f"{' and '.join(MODEL_TYPES)} (Qwen2, Qwen2.5 and Qwen3, dense, text)"
            )
        _refuse_unsupported(path, config)
        try:
            return cls(
                model_type=model_type,
                num_layers=int(config["num_hidden_layers"]),
                hidden_size=int(config["hidden_size"]),
                intermediate_size=int(config["intermediate_size"]),
                num_heads=int(config["num_attention_heads"]),
                num_kv_heads=int(config["num_key_value_heads"]),
                head_dim=_head_dim(config),
                vocab_size=int(config["vocab_size"]),
                max_context_len=int(config["max_position_embeddings"]),
                rms_norm_eps=float(config["rms_norm_eps"]),
                rope_theta=float(_rope(config).get("rope_theta") or config["rope_theta"]),
                tied=bool(config.get("tie_word_embeddings", False)),
                qk_norm=model_type == "qwen3",
                qkv_bias=model_type == "qwen2",
                eos_token_ids=_ids(config.get("eos_token_id")),
            )
        except KeyError as exc:
            raise ModelError(f"{path} has no {exc}; take the file of the model's author") from exc
        except (TypeError, ValueError) as exc:
            raise ModelError(
                f"{path} has a wrong value ({exc}); take the file of the model's author"
            ) from exc


class Checkpoint:
    """The safetensors of a Hugging Face model directory, in one file or in shards."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ModelError(
                f"there is no directory {path}; download the model first, for instance with "
                "'hf download Qwen/Qwen3-0.6B --local-dir qwen3'"
            )
        self.path = path
        self.architecture = Architecture.from_config(path / "config.json")
        self._shards = _find_shards(path)

    def tensor(self, name: str, *shape: int) -> NDArray[Any]:
        """Read one tensor, in the precision that it is stored in.

        Raises:
            ModelError: the tensor or its file is missing or broken, or has another shape.
        """
        from safetensors import SafetensorError, safe_open

        shard = self._shards.get(name)
        if shard is None:
            raise ModelError(f"{self.path} has no tensor '{name}'; download the model again")
        try:
            with safe_open(shard, framework="numpy") as file:
                tensor: NDArray[Any] = file.get_tensor(name)
        except (OSError, SafetensorError) as exc:
            raise ModelError(f"can't read '{name}' from {shard}: {exc}; download it again") from exc
        if tensor.shape != shape:
            raise ModelError(
                f"{shard}: '{name}' has the shape {tensor.shape}, but {shape} follows from "
                "config.json; they are of different models"
            )
        if tensor.dtype.name not in ("float32", "float16", "bfloat16"):
            raise ModelError(
                f"{shard}: '{name}' is {tensor.dtype}; take a checkpoint in float32, float16 or "
                "bfloat16 (quantized ones can't be exported)"
            )
        return tensor


def _find_shards(path: Path) -> dict[str, Path]:
    """Return the file of each tensor."""
    from safetensors import SafetensorError, safe_open

    index = path / INDEX_FILE
    if index.is_file():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelError(f"{index} has no weight_map; download the model again")
        shards = {name: path / file for name, file in weight_map.items()}
        for shard in sorted(set(shards.values())):
            if not shard.is_file():
                raise ModelError(f"{shard} is missing; download the model again")
        return shards
    single = path / SINGLE_FILE
    if not single.is_file():
        raise ModelError(
            f"there is no {SINGLE_FILE} (and no {INDEX_FILE}) in {path}; only safetensors can be "
            "exported"
        )
    try:
        with safe_open(single, framework="numpy") as file:
            return dict.fromkeys(file.keys(), single)
    except (OSError, SafetensorError) as exc:
        raise ModelError(f"{single} is broken ({exc}); download it again") from exc


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise ModelError(f"can't read {path}: {exc.strerror}; download the model again") from exc
    except (ValueError, RecursionError) as exc:
        raise ModelError(f"{path} is not JSON ({exc}); download it again") from exc
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a JSON object; download it again")
    return config


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the RoPE section: ``rope_parameters`` since transformers 5, else ``rope_scaling``."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _refuse_unsupported(path: Path, config: Mapping[str, Any]) -> None:
    rope = _rope(config)
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type != "default":
        raise ModelError(
            f"{path}: RoPE scaling '{rope_type}' can't be exported; remove rope_scaling, and stay "
            "within the context that the model was trained on"
        )
    layer_types = config.get("layer_types") or ()
    if config.get("use_sliding_window") or "sliding_attention" in layer_types:
        raise ModelError(f"{path}: sliding window attention can't be exported; take another model")
    if config.get("attention_bias"):
        raise ModelError(f"{path}: attention_bias can't be exported; take another model")
    if config.get("hidden_act", "silu") != "silu":
        raise ModelError(f"{path}: hidden_act '{config['hidden_act']}' can't be exported")
    if config.get("quantization_config"):
        raise ModelError(
            f"{path}: the checkpoint is quantized; take the unquantized one, and let the export "
            "quantize it"
        )


def _head_dim(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _ids(value: object) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(token_id for token_id in values if isinstance(token_id, int))
