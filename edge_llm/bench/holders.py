"""Who else uses the card, or this machine's processor for a model."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from edge_llm.device.reading import CardsReading

__all__ = ["Holder", "find_holders", "find_workers"]

WORKER = "edge_llm.engine.worker.process"
LIBRARY = "libaxcl_rt.so"


@dataclass(frozen=True, slots=True)
class Holder:
    """A process."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})"


def find_workers() -> list[Holder]:
    """Return the workers of edge-llm on this machine; call it while there is none of our own."""
    return [Holder(p.pid, "a worker of edge-llm") for p in _others() if _is_worker(p)]


def find_holders(library: Path | None, device: int, cards: CardsReading | None) -> list[Holder]:
    """Return who may be using the card: those that the vendor's tool names, or the kernel.

    Of a process of another user the kernel does not tell what it has loaded; of those only workers
    of edge-llm count, which may have the card.

    Args:
        library: the one that the settings name; the vendor's by its name otherwise.
        device: which card.
        cards: what the vendor's tool said, if it is there.
    """
    found: dict[int, Holder] = {}
    for process in _others():
        uses = _uses(process.pid, library)
        if uses or (uses is None and _is_worker(process)):
            name = "a worker of edge-llm" if _is_worker(process) else _name(process)
            found[process.pid] = Holder(process.pid, name)
    for using in cards.processes if cards else ():
        if using.index == device and using.pid != os.getpid():
            found.setdefault(using.pid, Holder(using.pid, using.name))
    return list(found.values())


def _others() -> Iterator[psutil.Process]:
    yield from (process for process in psutil.process_iter() if process.pid != os.getpid())


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return WORKER in process.cmdline()
    return False


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return str(process.name())
    return "a process"


def _uses(pid: int, library: Path | None) -> bool | None:
    """Whether it has loaded the card's runtime; None if the kernel does not tell."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text("utf-8", "replace")
    except PermissionError:
        return None
    except OSError:  # it has ended
        return False
    if library is not None:
        return f" {library.resolve()}\n" in maps
    return f"/{LIBRARY}" in maps
