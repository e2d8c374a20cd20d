"""From the broker to the state, and from the state to a screen, or to lines where there is none."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import aclosing, contextmanager
from typing import Any, NoReturn

import structlog
from rich.console import Console
from rich.live import Live

from edge_llm.mqtt import MqttConnection, Subscription
from edge_llm.settings import MqttSettings
from edge_llm.topics import Topics
from edge_llm.watch.screen import Screen
from edge_llm.watch.seen import Happening
from edge_llm.watch.state import State
from edge_llm.watch.text import one_line

__all__ = ["run_watch"]

DRAW_EVERY_S = 0.25
MAX_LINES = 1000  # for a reader that stops
NO_WRAP, WRAP = "\x1b[?7l", "\x1b[?7h"  # DECAWM
MQTT_5_REPLIES = "+/reply/#"  # where requesters may have them sent, if nothing else is set


async def run_watch(
    settings: MqttSettings, *, seconds: float | None = None, texts: bool = True
) -> None:
    """Show what happens at a broker, for a time or until cancelled; nothing is ever published.

    Args:
        settings: the broker.
        seconds: how long; for ever if not given.
        texts: show what is asked and answered.
    """
    console = Console()
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            if console.is_terminal and not console.is_dumb_terminal:
                await _watch_on_screen(settings, console, texts=texts)
            else:
                await _watch_in_lines(settings, texts=texts)
    except TimeoutError:
        if not limit.expired():
            raise


def _connect(settings: MqttSettings) -> MqttConnection:
    topics = Topics(settings.prefix, "+")
    retained = (topics.info, topics.activity, topics.status, topics.health)
    passing = [
        *(f"{settings.prefix}/{topic}" for topic in ("request/#", "cancel/#", "response/#")),
        topics.error,
        MQTT_5_REPLIES,
    ]
    return MqttConnection(
        settings,
        f"edge-llm-watch-{os.getpid()}-{os.urandom(2).hex()}",
        [
            *(Subscription(topic, 0, retained=True) for topic in retained),
            *(Subscription(topic, 0, retain_as_published=False) for topic in passing),
        ],
        clean=True,
    )


async def _watch_in_lines(settings: MqttSettings, *, texts: bool) -> None:
    lines = _Lines(texts=texts)
    async with _connect(settings) as mqtt, asyncio.TaskGroup() as tasks:
        receiver = tasks.create_task(
            _keep(State(settings.prefix), mqtt, lines.add), name="watch.receiver"
        )
        try:
            while True:
                await asyncio.to_thread(_write, await lines.get())  # a reader may stop for hours
        except BrokenPipeError:  # or for ever, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            receiver.cancel()


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class _Lines:
    """Lines that wait for their reader; as many as may."""

    def __init__(self, *, texts: bool) -> None:
        self._texts = texts
        self._waiting: asyncio.Queue[str] = asyncio.Queue(MAX_LINES)
        self._num_lost = 0

    def add(self, happening: Happening) -> None:
        """Say what happened."""
        kind, who, what, text = happening
        is_shown = text and (self._texts or kind in ("node", "error"))
        line = f"{time.strftime('%H:%M:%S')} {kind} {who} {what}"
        try:
            self._waiting.put_nowait(one_line(f"{line}: {text}" if is_shown else line))
        except asyncio.QueueFull:
            self._num_lost += 1

    async def get(self) -> str:
        """Wait for the next line."""
        if self._num_lost and self._waiting.empty():
            num_lost, self._num_lost = self._num_lost, 0
            return f"... {num_lost} lines more, which nobody read in time"
        return await self._waiting.get()


async def _watch_on_screen(settings: MqttSettings, console: Console, *, texts: bool) -> None:
    state = State(settings.prefix)
    screen = Screen(one_line(f"{settings.host}:{settings.port}"), texts)
    trouble = _Trouble()
    structlog.configure(processors=[trouble])  # a log would be written across the screen
    async with _connect(settings) as mqtt, asyncio.TaskGroup() as tasks:
        tasks.create_task(_keep(state, mqtt, lambda _: None), name="watch.receiver")
        with _unwrapped(console), Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                why = trouble.refused if mqtt.is_connected else trouble.latest
                now = time.monotonic()
                state.forget(now)
                drawn = screen.draw(state, now, *console.size, why)
                await asyncio.to_thread(live.update, drawn, refresh=True)  # a terminal may be held
                await asyncio.sleep(DRAW_EVERY_S)


@contextmanager
def _unwrapped(console: Console) -> Iterator[None]:
    """Have the terminal cut lines: it may count columns otherwise than we do, and would scroll."""
    console.file.write(NO_WRAP)
    try:
        yield
    finally:
        console.file.write(WRAP)
        console.file.flush()


async def _keep(state: State, mqtt: MqttConnection, tell: Callable[[Happening], None]) -> None:
    """Feed what comes in to a state, and tell what happened."""
    async with aclosing(mqtt.messages()) as messages:
        async for publication in messages:
            happening = state.feed(
                publication.topic,
                publication.payload,
                time.monotonic(),
                is_retained=publication.retain,
                respond_to=publication.response_topic,
            )
            if happening:
                tell(happening)


class _Trouble:
    """Keeps the latest warning, in place of a log: it is about the connection."""

    latest = "connecting"
    refused: str | None = None
    """What we may not read, if that is anything of edge-llm's own."""

    def __call__(self, _logger: Any, method: str, event: MutableMapping[str, Any]) -> NoReturn:
        if method in ("warning", "error"):
            words = (event.get("event"), event.get("reason"), event.get("do"))
            text = one_line(": ".join(str(word) for word in words if word))
            if event.get("event") != "mqtt.subscription_refused":
                self.latest = text
            elif MQTT_5_REPLIES not in text:
                self.refused = text
        raise structlog.DropEvent
