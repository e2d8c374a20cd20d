"""The tokenizer and chat template of Qwen3, which is too big to be kept here."""

from pathlib import Path

from edge_llm.engine.prompt import Prompter, load_prompter
from tests.programs import do_without

__all__ = ["load_qwen3"]

QWEN3 = Path(__file__).parents[2] / "shared" / "qwen3_tokenizer"


def load_qwen3() -> Prompter:
    """Load it; without it the test is skipped, and with CI=true it fails."""
    if not QWEN3.is_dir():
        do_without(f"Qwen3's tokenizer is not in {QWEN3}")
    return load_prompter(QWEN3)
