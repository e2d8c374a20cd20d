"""The latest of many, and what of them is new to whoever has seen the others."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, TypeVar

__all__ = ["Ring"]

T = TypeVar("T")


class Ring(Generic[T]):
    """Keeps the latest items, and counts all.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self._items: deque[T] = deque(maxlen=most)
        self.total = 0
        """How many there were since the beginning."""

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    @property
    def latest(self) -> T | None:
        """The newest one."""
        return self._items[-1] if self._items else None

    def add(self, item: T) -> None:
        """Add an item; the oldest one goes if there are too many."""
        self._items.append(item)
        self.total += 1

    def drop_while(self, is_old: Callable[[T], bool], keep: int = 0) -> None:
        """Drop the old ones, which are the first, but for the ``keep`` newest of them."""
        while len(self._items) > keep and is_old(self._items[keep]):
            self._items.popleft()

    def since(self, total: int) -> list[T]:
        """Return what is kept of the items after the first ``total`` ones."""
        new = min(self.total - total, len(self._items))
        return list(islice(self._items, len(self._items) - new, None))
