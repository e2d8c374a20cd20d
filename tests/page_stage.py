"""A node with a status page on a stage: its engine, its readings and its troubles are played."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp

from bridges.http import HttpServer, open_http
from bridges.http.page import Page
from edge_llm.device import CardReading, CardsReading, DeviceMonitor, HostReading, Reading
from edge_llm.engine import EngineStats
from edge_llm.engine.queue import QueuedEngine
from edge_llm.health import HealthReporter
from edge_llm.plugin import BridgeContext
from edge_llm.preset import Preset, Presets
from edge_llm.protocol import NodeHealth
from edge_llm.settings import DeviceSettings, HttpSettings, QueueSettings
from tests.prompted_engine import PromptedEngine

__all__ = ["EVENTS", "PageStage", "ask", "open_page_stage", "updates"]

MIB = 2**20
EVENTS = {"Accept": "text/event-stream"}
PRESETS = Presets(
    {
        "oracle": Preset(system_prompt="You speak in riddles.", prompt="What do you see?"),
        "robot": Preset(system_prompt="You are a robot."),
    },
    "oracle",
)


@dataclass
class PageStage:
    """A node that serves its page; what it reads and how hot that is, a test says."""

    engine: PromptedEngine
    queue: QueuedEngine
    monitor: DeviceMonitor
    reporter: HealthReporter
    changes: dict[str, Any] = field(default_factory=dict)
    """What the health says instead of what is."""
    held: list[asyncio.Task[str]] = field(default_factory=list)
    """Requests that a test leaves in hand."""
    server: HttpServer | None = None

    @property
    def url(self) -> str:
        """Where the page is."""
        assert self.server
        return f"{self.server.url}/"

    @property
    def stats(self) -> EngineStats:
        """What the engine counts and tells."""
        return self.queue.stats

    @property
    def page(self) -> Page:
        """The page's side of the node, which listens to the monitor."""
        watcher = cast(Any, self.monitor.watchers[-1])
        return cast(Page, watcher.__self__)

    def report(self) -> NodeHealth:
        """Say how it is."""
        return self.reporter.report().model_copy(update=self.changes)

    def read(
        self, celsius: float | None = 54, cmm_mib: int = 3100, host_celsius: float = 47
    ) -> None:
        """Read the card and the host."""
        card = CardReading(
            0, "AX650N", "0001:01:00.0", celsius is not None, "1.45", celsius, 12.0, 40.0,
            cmm_used_mib=cmm_mib, cmm_total_mib=7168,
        )  # fmt: skip
        host = HostReading(21.0, 8192 * MIB, 5600 * MIB, 20_000 * MIB, host_celsius)
        cards = CardsReading("V3.6.5", (card,))
        self.monitor.latest, self.monitor.last_cards = Reading(host, cards), cards
        for watcher in tuple(self.monitor.watchers):
            watcher(self.monitor.latest)

    def pass_time(self, seconds: float) -> None:
        """Let the page's clock be so much later."""
        self.page._begin -= seconds

    def live_through(
        self, celsius: Callable[[float], float], interval_s: float = 30, seconds: float = 3600
    ) -> None:
        """Pass an hour with readings of the card; ``celsius`` has them by the minute."""
        for number in range(int(seconds / interval_s)):
            self.read(celsius(number * interval_s / 60), 3100 + (number % 7 == 0) * 140)
            self.pass_time(interval_s)


@asynccontextmanager
async def open_page_stage(
    engine: PromptedEngine | None = None, *, limit: int = 16, **settings: Any
) -> AsyncGenerator[PageStage]:
    """Serve a node's page, on a free port if none is given."""
    engine = engine or PromptedEngine()
    queue = QueuedEngine(engine, QueueSettings(limit=limit))
    monitor = DeviceMonitor(DeviceSettings())
    reporter = HealthReporter("stage-left", "b1", queue, monitor, governor=None, index=0)
    stage = PageStage(engine, queue, monitor, reporter)
    options = HttpSettings.model_validate({"port": 0, **settings})
    context = BridgeContext(
        "stage-left", queue, presets=lambda: PRESETS, report=stage.report, stats=queue.stats,
        monitor=monitor,
    )  # fmt: skip
    async with open_http(options, context) as stage.server:
        yield stage


async def ask(url: str, prompt: str, **headers: str) -> str:
    """Ask over HTTP, and return the answer, or the code of the error."""
    body = {"messages": [{"role": "user", "content": prompt}]}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"{url}v1/chat/completions", json=body) as response,
    ):
        reply = await response.json()
        error = reply.get("error")
        return str(error["code"] if error else reply["choices"][0]["message"]["content"])


async def updates(response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any]]:
    """Yield what a stream of the status tells."""
    assert response.status == 200, await response.text()
    async for line in response.content:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])
