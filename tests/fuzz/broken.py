"""A target that raises and dies, to see that it is found."""

import os
from collections.abc import Iterable

from tests.fuzz.target import Target


def check(data: bytes) -> None:
    match data[:1]:
        case b"x":
            raise KeyError(data)
        case b"z":
            os.abort()


def seeds() -> Iterable[bytes]:
    return [b"a", b"x1", b"x2"]


TARGET = Target(check, seeds, ("x", "z"), max_len=4)
