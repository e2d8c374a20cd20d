"""Small model directories whose files can be swapped, and put back."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from edge_llm.engine.export import export_model
from edge_llm.tiny import MODEL_DIR
from tests.fuzz.source import Source
from tests.tiny_random_model import write_checkpoint

__all__ = ["built_in_copy", "edited", "names_of", "small_copy", "swapped"]

FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-model-")
MAX_EDITS = 12
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 64,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}


@cache
def built_in_copy() -> Path:
    """Return a directory like the built-in model's; graphs and embedding are links to those."""
    path = Path(FOLDER.name) / "built_in"
    path.mkdir()
    for file in MODEL_DIR.iterdir():
        if file.is_dir():
            shutil.copytree(file, path / file.name)
        else:
            (path / file.name).symlink_to(file)
    return path


@cache
def small_copy() -> Path:
    """Return a model of random weights whose graphs have few bytes beside their structure."""
    path = Path(FOLDER.name) / "small"
    source = write_checkpoint(Path(FOLDER.name) / "source", "qwen2", head_dim=8, **SMALL)
    export_model(source, path, chunk_len=16)
    return path


def edited(content: bytes, source: Source) -> bytes:
    """Return a file's bytes with some of them changed, cut out or put in, as the input says."""
    data = bytearray(content)
    for _ in range(source.byte() % MAX_EDITS):
        at = int.from_bytes(bytes((source.byte(), source.byte(), source.byte())), "little")
        at %= len(data) + 1
        num_bytes = source.byte()
        match source.byte() % 4:
            case 0:
                data[at : at + 1] = bytes([num_bytes])
            case 1:
                del data[at : at + num_bytes]
            case 2:
                data[at:at] = bytes(source.byte() for _ in range(num_bytes % 16))
            case 3:
                data[at : at + num_bytes % 8] = bytes(source.byte() for _ in range(num_bytes % 8))
    return bytes(data)


@contextmanager
def swapped(file: Path, content: bytes | None) -> Iterator[None]:
    """Have a file with other content, or none at all, until the context is left."""
    aside = file.with_name(f".{file.name}.aside")
    had_one = file.exists()
    if had_one:
        file.rename(aside)
    try:
        if content is not None:
            file.write_bytes(content)
        yield
    finally:
        file.unlink(missing_ok=True)
        if had_one:
            aside.rename(file)


def names_of(path: Path) -> Sequence[str]:
    """Return the names of a folder's files, sorted."""
    return sorted(file.name for file in path.iterdir() if file.is_file())
