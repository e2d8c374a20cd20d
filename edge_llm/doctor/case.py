"""What the doctor knows of the case before the checks begin, and what they find out together."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edge_llm.doctor.machine import Machine
from edge_llm.settings import Settings

__all__ = ["Case"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Case:
    """An installation that is examined.

    Attributes:
        settings: as they are read; the defaults if they can't be.
        settings_error: why they can't be read; None if they can.
        config: the file that they come from, if any.
        machine: where it runs.
        model: a model directory, or the name of one, that is asked about in place of that in the
            settings.
        load: whether the model may be loaded.
    """

    settings: Settings
    settings_error: str | None = None
    config: Path | None = None
    machine: Machine = field(default_factory=Machine)
    model: Path | None = None
    load: bool = False
    _found: dict[Any, asyncio.Task[Any]] = field(default_factory=dict)

    async def once(self, find: Callable[["Case"], Awaitable[T]]) -> T:
        """Return what a function finds, which is called for the first who asks only."""
        if find not in self._found:
            name = f"doctor.{getattr(find, '__name__', find)}"
            self._found[find] = asyncio.ensure_future(find(self))
            self._found[find].set_name(name)
        # One who has waited too long must not end it for the others.
        found: T = await asyncio.shield(self._found[find])
        return found

    async def aclose(self) -> None:
        """End what is still being found out."""
        for task in self._found.values():
            task.cancel()
        await asyncio.gather(*self._found.values(), return_exceptions=True)
