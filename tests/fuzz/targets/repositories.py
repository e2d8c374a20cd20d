"""Repositories of the hub: whatever files one lists, what is taken stays in its directory."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from edge_llm.catalog.layout import RemoteFile, Repository, choose_files
from edge_llm.errors import ModelError
from tests.fuzz.source import END, Source, join
from tests.fuzz.target import Target

MAX_FILES = 40


def check(data: bytes) -> None:
    source = Source(data)
    repo, folder = source.text(), source.text() or None
    files: list[RemoteFile] = []
    while source and len(files) < MAX_FILES:
        files.append(RemoteFile(source.text(), source.number(0, 60_000), None, None))
    repository = Repository(repo, "0" * 40, tuple(files))
    try:
        wanted = choose_files(repository, folder)
    except ModelError:
        return
    places = [file.place for file in wanted]
    assert len(set(places)) == len(places), "two files in one place"
    for place in places:
        parts = PurePosixPath(place).parts
        assert parts, "no place"
        assert not place.startswith("/"), "a place of its own"
        assert ".." not in parts, "a place outside"
        assert "\0" not in place, "no file is called so"


GRAPHS = ("q/qwen3_p128_l0_together.axmodel", "q/qwen3_post.axmodel")


def seeds() -> Iterable[bytes]:
    table = "model.embed_tokens.weight.bfloat16.bin"
    tokenizer = ("qwen3_tokenizer/tokenizer.json", "qwen3_tokenizer/tokenizer_config.json")
    flat = [path.removeprefix("q/") for path in GRAPHS]
    yield _files(*GRAPHS, f"q/{table}", *tokenizer, "config.json")
    yield _files(*flat, "tokenizer.json", table)
    yield _files("model.safetensors", "config.json")
    yield _files(*GRAPHS, *(f"b{path}" for path in GRAPHS), folder="bq")


def _files(*paths: str, folder: str = "") -> bytes:
    files = (path.encode() + END + b"\x07\x01" for path in paths)
    return join((), "AXERA-TECH/Qwen3-0.6B", folder, b"".join(files))


TARGET = Target(
    check,
    seeds,
    ("..", "/", "_p128_l0_together.axmodel", "_post.axmodel", "tokenizer", "ax650", "config.json"),
)
