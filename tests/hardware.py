"""The virtual card in a folder of its own, with its page and its ``axcl-smi``."""

import subprocess
from collections.abc import Iterator
from ctypes import byref, c_void_p
from pathlib import Path

import pytest

from tests.virtual_ax650.card import Card, open_card
from tests.virtual_ax650.shared import Shared
from tests.virtual_ax650.smi import write_smi

__all__ = [
    "MIB",
    "NOT_ACTIVE",
    "NO_CONNECT",
    "SMI_TIMEOUT_S",
    "allocate",
    "card",
    "run_smi",
    "shared",
    "smi",
]

MIB = 1024 * 1024
NO_CONNECT, NOT_ACTIVE = 0x80300181, 0x80300183
SMI_TIMEOUT_S = 20


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    shared = Shared.create(tmp_path / "shared")
    yield shared
    shared.close()


@pytest.fixture
def card(tmp_path: Path, shared: Shared) -> Iterator[Card]:
    files = {name: tmp_path / name.lower() for name in ("CONTROL", "STATE")}
    with open_card("full", SHARED=shared.path, **files) as card:
        yield card


@pytest.fixture
def smi(tmp_path: Path, card: Card) -> Path:
    return write_smi(tmp_path, card)


def run_smi(smi: Path, *arguments: str, answer: str | None = None) -> str:
    """Run the program as a service would: without a terminal, and with an exit code of 0."""
    done = subprocess.run(
        [smi, *arguments],
        input=answer,
        stdin=None if answer else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=SMI_TIMEOUT_S,
    )
    return done.stdout


def allocate(card: Card, num_bytes: int) -> c_void_p:
    memory = c_void_p()
    card.axcl("axclrtMalloc", byref(memory), num_bytes, 0)
    return memory
