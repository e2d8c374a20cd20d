"""What can be fuzzed: a check of one input, its seeds, its words."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.fuzz import targets

__all__ = ["BEGUN", "PLACES", "Target", "load_target", "target_names"]

BEGUN = "begun"
"""A file that is made when all is imported and the first input is about to be read."""

PLACES = ("edge_llm", "bridges")
"""The packages whose code is to be covered."""


@dataclass(frozen=True, slots=True)
class Target:
    """One room of the code that reads what others have written.

    Attributes:
        check: reads an input; whatever it raises is a mistake of the code, and so is slowness.
        seeds: makes inputs that are right, or nearly so.
        words: of the language of the inputs.
        max_len: most bytes of an input.
        mutate: changes an input by its structure, with a seed for chance; the fuzzer's own
            mutations, which know bytes only, have every second turn. None leaves it to those.
        is_covered: the code runs in the fuzzer's process, which sees where an input leads.
    """

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    words: Sequence[str] = ()
    max_len: int = 4096
    mutate: Callable[[bytes, int], bytes] | None = None
    is_covered: bool = True


def target_names() -> list[str]:
    """Return the names of all targets, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(targets.__path__))


def load_target(name: str) -> Target:
    """Import a target, by its name or that of a module, and with it the code that it is about."""
    module = name if "." in name else f"{targets.__name__}.{name}"
    target = importlib.import_module(module).TARGET
    assert isinstance(target, Target)
    return target
