"""What readers of the page are told: first all, then what is new, as fast as each can take it.

Nothing is queued for a reader. It has a cursor: how much of each part it has seen; and whenever it
is ready for more, it gets what came since, put together from what the page keeps anyway. So one
that is slow skips what it would have been told meanwhile, and costs no memory; and readers that
keep up with each other share one text.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from pydantic import BaseModel

from bridges.http.page.history import History
from bridges.http.page.requests import Requests
from bridges.http.page.status import About, Said, State, StatusUpdate
from edge_llm.errors import UnavailableError

__all__ = ["PACE_S", "Cursor", "Feed"]

PACE_S = 0.1
"""Between two updates of a reader: faster than anybody reads."""
RETRY_AFTER_S = 10.0
MAX_SHOWN = 32
"""Of the requests in hand; how many there are, the queue says."""
SHARED_S = 0.05
"""How long a text is good for other readers: it says what time it is."""


class Cursor(NamedTuple):
    """How much a reader has seen."""

    about: int = 0
    state: int = 0
    in_hand: int = 0
    ended: int = 0
    samples: int = 0
    spans: int = 0
    marks: int = 0
    said: tuple[tuple[int, int], ...] = ()
    """Of which request, how many characters."""


class Feed:
    """Puts updates together.

    Args:
        requests: in hand and ended.
        history: of the last hour.
        make_about: gives what rarely changes.
        make_state: gives how the node is.
        now_s: the page's clock.
        max_readers: at a time.
    """

    def __init__(
        self,
        requests: Requests,
        history: History,
        make_about: Callable[[], About],
        make_state: Callable[[], State],
        *,
        now_s: Callable[[], float],
        max_readers: int,
    ) -> None:
        self._requests, self._history = requests, history
        self._make_about, self._make_state = make_about, make_state
        self._now_s = now_s
        self._max_readers = max_readers
        self._about, self._state, self._in_hand = 1, 1, 1  # versions
        self._texts: dict[Cursor, tuple[str, Cursor]] = {}
        self._texts_until = 0.0
        self._changed = asyncio.Event()
        self.num_readers = 0
        self.is_over = False

    def touch(self, *, state: bool = False, about: bool = False) -> None:
        """Note that something has changed."""
        self._in_hand += 1
        self._state += state
        self._about += about
        self._texts.clear()
        self._changed.set()

    def end(self) -> None:
        """Send readers away, once they have heard the last."""
        self.is_over = True
        self.touch(state=True)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Take a reader in.

        Raises:
            UnavailableError: there are as many as there may be.
        """
        if self.num_readers >= self._max_readers:
            raise UnavailableError(
                f"{self._max_readers} pages are open, as many as may", retry_after_s=RETRY_AFTER_S
            )
        self.num_readers += 1
        try:
            yield
        finally:
            self.num_readers -= 1

    async def wait(self, cursor: Cursor) -> None:
        """Return when there may be something new for a reader."""
        while cursor == self._end(cursor.said) and not self.is_over:
            self._changed.clear()
            await self._changed.wait()

    def update(self, cursor: Cursor = Cursor()) -> tuple[str, Cursor]:  # noqa: B008 - a constant
        """Return what is new, as JSON, and the cursor behind it."""
        now = time.monotonic()
        if now >= self._texts_until:
            self._texts.clear()
            self._texts_until = now + SHARED_S
        if cursor not in self._texts:
            update, end = self.compare(cursor)
            text = json.dumps(update, default=_as_object, ensure_ascii=False, separators=(",", ":"))
            self._texts[cursor] = text, end
        return self._texts[cursor]

    def compare(self, cursor: Cursor) -> tuple[StatusUpdate, Cursor]:
        """Return what is new to a reader, and the cursor behind it."""
        said = self._said(cursor.said)
        end = self._end(
            tuple((n, len(e.said)) for n, e in self._requests.in_hand.items() if e.said)
        )
        update: StatusUpdate = {"now_s": round(self._now_s(), 2)}
        if cursor.about != end.about:
            update["about"] = self._make_about()
        if cursor.state != end.state:
            update["state"] = self._make_state()
        if cursor.in_hand != end.in_hand:
            update["in_hand"] = self._requests.list_in_hand(MAX_SHOWN)
        is_first = cursor.about == 0
        if said or is_first:
            update["said"] = said
        if is_first or cursor.ended != end.ended:
            update["ended"] = self._requests.ended.since(cursor.ended)
        if is_first or cursor.samples != end.samples:
            update["samples"] = self._history.samples.since(cursor.samples)
        if is_first or cursor.spans != end.spans:
            update["spans"] = self._history.spans.since(cursor.spans)
        if is_first or cursor.marks != end.marks:
            update["marks"] = self._history.marks.since(cursor.marks)
        return update, end

    def _said(self, seen: tuple[tuple[int, int], ...]) -> list[Said]:
        starts = dict(seen)
        return [
            {"number": number, "start": start, "text": entry.said[start:]}
            for number, entry in self._requests.in_hand.items()
            if len(entry.said) > (start := starts.get(number, 0))
        ]

    def _end(self, said: tuple[tuple[int, int], ...]) -> Cursor:
        return Cursor(
            self._about,
            self._state,
            self._in_hand,
            self._requests.ended.total,
            self._history.samples.total,
            self._history.spans.total,
            self._history.marks.total,
            said,
        )


def _as_object(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json")
