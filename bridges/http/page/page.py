"""The page's side of the node: whom it listens to, and what it makes of that."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import structlog

from bridges.http.page.feed import Feed
from bridges.http.page.files import PAGE_VERSION
from bridges.http.page.fleet import describe_fleet, open_roster
from bridges.http.page.heard import HeardEngine
from bridges.http.page.history import SPAN_S, History, word_of
from bridges.http.page.requests import Requests
from bridges.http.page.status import About, State, Thresholds
from edge_llm import __version__
from edge_llm.client import Roster
from edge_llm.device import DeviceMonitor, Reading
from edge_llm.engine import Engine, EngineStats
from edge_llm.plugin import BridgeContext
from edge_llm.protocol import NodeHealth
from edge_llm.settings import HttpSettings

__all__ = ["Page", "open_page"]

log = structlog.get_logger()

TICK_S = 1.0
"""For what nobody tells: how far a model is loaded, and a node that is elsewhere."""
MAX_READERS = 16


class Page:
    """What is told on the page.

    Args:
        settings: of HTTP.
        context: the node.
    """

    def __init__(self, settings: HttpSettings, context: BridgeContext) -> None:
        self.context = context
        self.stats = context.stats or EngineStats()
        self.engine: Engine = context.engine
        if context.stats is None:
            self.engine = HeardEngine(context.engine, self.stats)
        self.roster: Roster | None = None
        """Of the fleet, if there is one."""
        self._texts = settings.page.texts
        self._begin = time.monotonic()
        self.history = History()
        self.requests = Requests(
            texts=self._texts, on_change=self._note_request, now_s=self._since_begin
        )
        self.feed = Feed(
            self.requests,
            self.history,
            self._about,
            self._state,
            now_s=self._now_s,
            # Open pages must not keep requests out.
            max_readers=max(1, min(MAX_READERS, settings.max_concurrent // 4)),
        )
        self._told: tuple[object, object] = (None, None)  # as it was when readers were told last
        self._look_is_due = False

    def stop(self) -> None:
        """Say that the node stops, and end all streams."""
        self.feed.end()

    async def run(self) -> None:
        """Look, and look again, for ever."""
        while True:
            self._look()
            await asyncio.sleep(TICK_S)

    def note_change(self) -> None:
        """Look soon: whoever calls is in the middle of something."""
        if not self._look_is_due:
            self._look_is_due = True
            asyncio.get_running_loop().call_soon(self._look)

    def note_reading(self, reading: Reading) -> None:
        """Take down what the monitor has read."""
        if health := self._health():
            self.history.note_reading(health, self._now_s())
        self.note_change()
        self.feed.touch(state=True)

    def _note_request(self, is_news: bool) -> None:
        self.feed.touch(state=is_news)

    def _look(self) -> None:
        """Take down how the node is now; whatever goes wrong here is not worth the page."""
        self._look_is_due = False
        try:
            self._note_state()
        except Exception:
            log.exception("page.look_failed")

    def _note_state(self) -> None:
        engine, health, now_s = self.context.engine, self._health(), self._now_s()
        if health:
            self.history.note_trouble(health, now_s)
            queue = health.queue
            if engine.state == "ready" and not (queue.waiting or queue.running or queue.holds):
                self.requests.forget_lost()
        self.history.note_state(word_of(self._state_word(), health), now_s)
        presets = self.context.presets()
        about = (engine.models, tuple(presets.by_name), presets.default)
        state = (
            self._state_word(),
            engine.activity,
            health and (health.heat, health.attention, health.queue),
            health and health.recovery and health.recovery.is_over,
            self.history.marks.total,
            _news(self.roster),
        )
        if (about, state) != self._told:
            self.feed.touch(state=True, about=about != self._told[0])
            self._told = (about, state)

    def _health(self) -> NodeHealth | None:
        return self.context.report() if self.context.report else None

    def _state_word(self) -> str:
        return "stopping" if self.feed.is_over else self.context.engine.state

    def _state(self) -> State:
        return {
            "at_s": round(self._now_s(), 2),
            "state": self._state_word(),
            "activity": "stopping" if self.feed.is_over else self.context.engine.activity,
            "health": self._health(),
            "fleet": describe_fleet(self.roster) if self.roster else None,
        }

    def _about(self) -> About:
        presets = self.context.presets()
        return {
            "node": self.context.node,
            "version": __version__,
            "page": PAGE_VERSION,
            "texts": self._texts,
            "is_here": self.context.report is not None,
            "models": list(self.context.engine.models),
            "presets": list(presets.by_name),
            "default_preset": presets.default,
            "thermal": _thresholds(self.context.monitor),
            "span_s": SPAN_S,
        }

    def _now_s(self) -> float:
        return time.monotonic() - self._begin

    def _since_begin(self, at: float) -> float:
        return round(at - self._begin, 2)


@asynccontextmanager
async def open_page(settings: HttpSettings, context: BridgeContext) -> AsyncGenerator[Page | None]:
    """Listen to a node until the context is left; None if there is to be no page.

    Args:
        settings: of HTTP.
        context: the node.
    """
    if not settings.page.enabled:
        yield None
        return
    page = Page(settings, context)
    stats, monitor = page.stats, context.monitor
    stats.listeners.append(page.requests.hear)
    stats.watchers.append(page.requests.end)
    stats.on_change.append(page.note_change)
    if monitor:
        monitor.watchers.append(page.note_reading)
        if monitor.latest:
            page.note_reading(monitor.latest)
    running = asyncio.create_task(page.run(), name="http.page")
    try:
        async with open_roster(context, page.note_change) as page.roster:
            yield page
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        if monitor:
            monitor.watchers.remove(page.note_reading)
        stats.on_change.remove(page.note_change)
        stats.watchers.remove(page.requests.end)
        stats.listeners.remove(page.requests.hear)


def _news(roster: Roster | None) -> object:
    """Return what readers are to hear of at once: of a fleet all but ages."""
    return roster and {**describe_fleet(roster), "oldest_s": None}


def _thresholds(monitor: DeviceMonitor | None) -> Thresholds | None:
    if monitor is None:
        return None
    thermal = monitor.thermal
    return {
        "warn": thermal.warn_celsius,
        "hot": thermal.hot_celsius,
        "critical": thermal.critical_celsius,
        "emergency": thermal.emergency_celsius,
        "resume": thermal.resume_celsius,
    }
