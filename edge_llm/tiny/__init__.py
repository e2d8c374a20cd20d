"""The built-in model: where its files are, and the code that makes its text and trains it."""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"

__all__ = ["MODEL_DIR"]
