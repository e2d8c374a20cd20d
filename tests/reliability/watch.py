"""What a node shows of itself: its retained topics and its log, each with the time it came."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.clients import RawClient

__all__ = ["NODE", "Watch", "open_watch"]

NODE = "stage"
TOPICS = f"llm/node/{NODE}"
LOG_EVERY_S = 0.02


READ_AGAIN = "log:device.read_again"
OF_READING = frozenset(
    {READ_AGAIN, "log:device.unreadable", "log:device.no_card", "log:device.no_answer"}
)


class Watch:
    """Takes down signs: ``log:recovery.step``, ``activity:idle``, ``status:offline``,
    ``state:ready``, ``heat:hot``, ``card:silent``.

    Args:
        log: the node's, which may not be there yet.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read_bytes = 0
        self._loop = asyncio.get_running_loop()
        self.signs: list[tuple[float, str]] = []
        """With the time on the monotonic clock."""
        self.health: dict[str, Any] = {}
        """The latest."""
        self.activity = self.status = ""

    def hear_in_thread(self, _client: Any, _data: Any, message: Any) -> None:
        """Take a message, on paho's thread."""
        heard = (message.topic.removeprefix(TOPICS + "/"), bytes(message.payload))
        self._loop.call_soon_threadsafe(self._hear, *heard)

    def _hear(self, name: str, payload: bytes) -> None:
        match name:
            case "activity" | "status":
                setattr(self, name, payload.decode())
                self._note(f"{name}:{payload.decode()}")
            case "health" if payload:
                self.health = json.loads(payload)
                self._note(*_signs(self.health))

    def _note(self, *signs: str) -> None:
        now = time.monotonic()
        self.signs.extend((now, sign) for sign in signs)

    async def follow_log(self) -> None:
        """Read the log as it grows, for ever."""
        while True:
            self.read_log()
            await asyncio.sleep(LOG_EVERY_S)

    def read_log(self) -> None:
        """Take down what is new in the log."""
        if not self._log.exists():
            return
        with self._log.open("rb") as file:
            file.seek(self._read_bytes)
            whole, _, _ = file.read().rpartition(b"\n")
        self._read_bytes += len(whole) + bool(whole)
        for line in whole.splitlines():
            with suppress(ValueError, TypeError, KeyError):
                self._note(f"log:{json.loads(line)['event']}")

    @property
    def is_card_read(self) -> bool:
        """Whether the node could read the card when it last said something of that."""
        said = (sign for _, sign in reversed(self.signs) if sign.startswith("log:device."))
        told = next((sign for sign in said if sign in OF_READING), READ_AGAIN)
        return told == READ_AGAIN

    def first(self, signs: Collection[str], since: float) -> float | None:
        """Return when the first of some signs was seen after a time."""
        return next((at for at, sign in self.signs if at >= since and sign in signs), None)

    def seen(self, since: float) -> Iterator[str]:
        """Yield each sign once that was seen after a time."""
        yield from dict.fromkeys(sign for at, sign in self.signs if at >= since)

    @property
    def is_working(self) -> bool:
        """Whether the node says that it is there, and answers."""
        health = self.health
        return (
            self.status == "online"
            and health.get("state") == "ready"
            and not health["queue"]["holds"]
        )

    @property
    def is_well(self) -> bool:
        """Whether it also says that it works as usual."""
        return self.is_working and self.health["heat"] in (None, "normal")


def _signs(health: dict[str, Any]) -> Iterator[str]:
    yield f"state:{health['state']}"
    yield f"heat:{health['heat']}"
    card = health["card"]
    if card and not card["answers"]:
        yield "card:silent"


@asynccontextmanager
async def open_watch(port: int, log: Path) -> AsyncGenerator[Watch]:
    """Watch a node from now on."""
    watch = Watch(log)
    async with RawClient(port, "5", "watch", clean=False) as client:
        client.paho.reconnect_delay_set(1, 2)
        client.paho.on_message = watch.hear_in_thread
        await client.subscribe(*(f"{TOPICS}/{name}" for name in ("activity", "status", "health")))
        following = asyncio.create_task(watch.follow_log(), name="watch.log")
        try:
            yield watch
        finally:
            following.cancel()
