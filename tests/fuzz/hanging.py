"""A target that never ends, to see that it is found."""

from collections.abc import Iterable

from tests.fuzz.target import Target


def check(data: bytes) -> None:
    while data[:1] == b"y":
        pass


def seeds() -> Iterable[bytes]:
    return [b"a", b"b1"]


TARGET = Target(check, seeds, ("y",), max_len=4)
