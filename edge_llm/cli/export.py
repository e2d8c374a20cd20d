"""``edge-llm export``: a model directory of Hugging Face weights."""

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    export = commands.add_parser(
        "export",
        help="make a model directory of Hugging Face weights",
        description="Write the layers of a Qwen2, Qwen2.5 or Qwen3 model (safetensors) as ONNX "
        "graphs that edge-llm runs on the CPU. Needs: pip install 'edge-llm[export]'.",
    )
    export.add_argument("source", type=Path, metavar="HF_DIR", help="config.json, *.safetensors")
    export.add_argument("out", type=Path, metavar="OUT", help="directory to make")
    export.add_argument("--quantize", choices=("fp32", "int8", "int4"), default="fp32")
    export.add_argument("--context-len", type=int, metavar="N", help="tokens of prompt and answer")
    export.add_argument("--name", help="what the model is called; HF_DIR's name otherwise")
    export.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    export.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    from edge_llm.engine.export import export_model

    export_model(
        args.source,
        args.out,
        quantize=args.quantize,
        context_len=args.context_len,
        name=args.name,
        overwrite=args.overwrite,
    )
    print(f"{args.out} is ready; serve it with: edge-llm serve --model {args.out}")
    return 0
