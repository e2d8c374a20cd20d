"""llama.cpp's own HTTP server over the built-in model: ``llama_cpp.py MODEL_DIR GGUF PORT``.

Runs in an environment of its own. The weights are those of the ONNX layers, so that both servers
must say the same.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import onnx.numpy_helper
import xllamacpp

ROPE_THETA = 10_000.0
RMS_NORM_EPS = 1e-6
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Return the weights of a graph by their names in Hugging Face's files."""
    return {
        tensor.name.removesuffix(".weight"): onnx.numpy_helper.to_array(tensor).astype(np.float32)
        for tensor in onnx.load(path).graph.initializer
        if tensor.name.startswith("model.")
    }


def write_gguf(model: Path, path: Path) -> None:
    """Write a model directory of a Qwen3 as one GGUF file."""
    layers = sorted(
        model.glob("*_together.onnx"), key=lambda path: int(path.stem.split("_")[2][1:])
    )
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "qwen3")
    first = read_weights(layers[0])
    hidden, query = first["model.layers.0.self_attn.q_proj"].shape
    (head,) = first["model.layers.0.self_attn.q_norm"].shape
    writer.add_name(config["model_name"])
    writer.add_block_count(len(layers))
    writer.add_context_length(config["context_len"])
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(first["model.layers.0.mlp.gate_proj"].shape[1])
    writer.add_head_count(query // head)
    writer.add_head_count_kv(first["model.layers.0.self_attn.k_proj"].shape[1] // head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_layer_norm_rms_eps(RMS_NORM_EPS)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    add_tokenizer(writer, model / "tokenizer")
    for index, layer in enumerate(layers):
        for name, weight in read_weights(layer).items():
            ours = name.removeprefix(f"model.layers.{index}.")
            writer.add_tensor(f"blk.{index}.{NAMES[ours]}.weight", np.ascontiguousarray(weight.T))
    (post,) = model.glob("*_post.onnx")
    last = read_weights(post)
    writer.add_tensor("output_norm.weight", last["model.norm"])
    writer.add_tensor("token_embd.weight", np.ascontiguousarray(last["model.embed_tokens"].T))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    """Add the vocabulary, the merges and the chat template."""
    tokenizer: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    ids = dict(tokenizer["model"]["vocab"])
    types = dict.fromkeys(ids.values(), gguf.TokenType.NORMAL)
    for token in tokenizer["added_tokens"]:
        ids[token["content"]] = token["id"]
        kind = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        types[token["id"]] = kind
    tokens = sorted(ids, key=lambda token: ids[token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([types[ids[token]] for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(ids[config["eos_token"]])
    writer.add_pad_token_id(ids[config["pad_token"]])
    writer.add_add_bos_token(False)
    writer.add_chat_template(config["chat_template"])


def main() -> None:
    model, path, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    write_gguf(model, path)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {"tiny-gguf"}
    params.port = port
    params.n_ctx = 1024
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.cache_ram_mib = 0
    params.warmup = False
    server = xllamacpp.Server(params)
    print("listening", server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
