"""What load balancers, Prometheus and a stop of the node see of the bridge."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridges.http import HttpServer, open_http
from edge_llm.device import DeviceMonitor
from edge_llm.engine import EngineState
from edge_llm.engine.queue import QueuedEngine
from edge_llm.errors import DeviceError
from edge_llm.plugin import BridgeContext
from edge_llm.protocol import Delta, Done, Event, ModelInfo, Started, Usage
from edge_llm.settings import DeviceSettings, HttpSettings, QueueSettings
from tests.clients import eventually
from tests.fakes import ScriptedEngine

DOCS = Path(__file__).parents[1] / "docs"
SEEN = Path(__file__).parent / "data" / "axcl_smi"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
USAGE = Usage(prompt_tokens=30, cached_tokens=20, completion_tokens=5)
ANSWER: list[Event | Exception | asyncio.Event] = [
    Started(),
    Delta(text="Hello"),
    Delta(text=" there."),
    Done(finish_reason="stop", usage=USAGE),
]
MODEL = ModelInfo(id="tiny", context_len=64, vocab_size=260, runtime="onnx")


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(ANSWER, models=(MODEL,))


@pytest.fixture
def queue(engine: ScriptedEngine) -> QueuedEngine:
    return QueuedEngine(engine, QueueSettings(limit=1))


@pytest.fixture
async def server(queue: QueuedEngine) -> AsyncIterator[HttpServer]:
    async with open_http(
        HttpSettings(port=0), BridgeContext("pi5", queue, stats=queue.stats)
    ) as server:
        yield server


@pytest.fixture
async def http(server: HttpServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url) as session:
        yield session


async def test_a_bridge_that_was_closed_counts_no_more(queue: QueuedEngine) -> None:
    for _ in range(2):  # as one that failed is opened again
        context = BridgeContext("pi5", queue, stats=queue.stats)
        async with open_http(HttpSettings(port=0), context):
            assert queue.stats.watchers
    assert not queue.stats.watchers
    assert not queue.stats.listeners
    assert not queue.stats.on_change


def card_tool(tmp_path: Path, says: str) -> Path:
    """Make a stand-in for the vendor's tool that prints what the real one was seen to print."""
    path = tmp_path / "axcl-smi"
    path.write_text(f"#!/bin/sh\ncat {SEEN}/{says}.stdout.txt\n")
    path.chmod(0o755)
    return path


async def scrape(http: aiohttp.ClientSession) -> dict[str, float]:
    """Return the samples; labels follow the name in brackets."""
    async with http.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        text = await response.text()
    return {
        sample.name + (str(list(sample.labels.values())) if sample.labels else ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("state", ["ready", "loading", "recovering", "failed", "offline"])
async def test_live_is_not_ready(
    http: aiohttp.ClientSession, engine: ScriptedEngine, state: EngineState
) -> None:
    engine.state = state
    async with http.get("/health") as response:
        assert (response.status, (await response.json())["state"]) == (200, state)
    async with http.get("/health/ready") as response:
        assert response.status == (200 if state == "ready" else 503)
        body = await response.json()
        assert ("Retry-After" in response.headers) == (state != "ready")
    assert body.pop("version")
    reason = body.pop("reason", "")
    assert bool(reason) == (state != "ready")
    assert body == {
        "status": "ok" if state == "ready" else "unavailable",
        "node": "pi5",
        "state": state,
        "activity": "idle",
        "models": [MODEL.model_dump()],
    }


async def test_metrics_tell_what_the_engine_did(
    http: aiohttp.ClientSession, engine: ScriptedEngine
) -> None:
    for _ in range(3):
        async with http.post("/v1/chat/completions", json=ASK) as response:
            assert response.status == 200
    engine.script = [Started(), DeviceError("no")]
    async with http.post("/v1/chat/completions", json=ASK) as response:
        assert response.status == 500
    async with http.post("/v1/chat/completions", data=b"{") as response:
        assert response.status == 400
    found = await scrape(http)
    assert found["edge_llm_requests_total['stop']"] == 3
    assert found["edge_llm_requests_total['device_error']"] == 1
    assert found["edge_llm_prompt_tokens_total"] == 90
    assert found["edge_llm_cached_tokens_total"] == 60
    assert found["edge_llm_completion_tokens_total"] == 15
    for name in ("queue", "request"):
        assert found[f"edge_llm_{name}_seconds_count"] == 4
    assert found["edge_llm_time_to_first_token_seconds_count"] == 3
    assert found["edge_llm_time_per_token_seconds_count"] == 3
    assert found["edge_llm_engine_state['ready']"] == 1
    assert found["edge_llm_engine_state['loading']"] == 0
    assert found["edge_llm_worker_restarts_total"] == 0
    route = "'POST', '/v1/chat/completions'"
    assert found[f"edge_llm_http_requests_total[{route}, '200']"] == 3
    assert found[f"edge_llm_http_requests_total[{route}, '400']"] == 1
    assert found["process_resident_memory_bytes"] > 0
    [info] = [name for name in found if name.startswith("edge_llm_info")]
    assert all(word in info for word in ("'pi5'", "'tiny'", "'onnx'"))


async def test_metrics_tell_what_is_in_hand(
    http: aiohttp.ClientSession, engine: ScriptedEngine, queue: QueuedEngine
) -> None:
    release = asyncio.Event()
    engine.script = [Started(), release, *ANSWER[1:]]
    asked = [asyncio.create_task(http.post("/v1/chat/completions", json=ASK)) for _ in range(2)]
    await eventually(lambda: queue.num_waiting == 1)
    found = await scrape(http)
    assert found["edge_llm_requests_waiting"] == found["edge_llm_requests_running"] == 1
    async with http.post("/v1/chat/completions", json=ASK) as response:
        assert response.status == 503
    release.set()
    for task in asked:
        assert (await task).status == 200
    found = await scrape(http)
    assert found["edge_llm_requests_total['queue_full']"] == 1
    assert found["edge_llm_requests_waiting"] == found["edge_llm_requests_running"] == 0


async def test_where_the_engine_is_elsewhere_only_http_is_counted(engine: ScriptedEngine) -> None:
    async with (
        open_http(HttpSettings(port=0), BridgeContext("any", engine)) as server,
        aiohttp.ClientSession(server.url) as http,
    ):
        found = await scrape(http)
    assert not any(name.startswith("edge_llm_requests") for name in found)
    assert found["edge_llm_engine_state['ready']"] == 1


async def test_a_stop_lets_end_what_has_begun_and_refuses_the_rest(engine: ScriptedEngine) -> None:
    release = asyncio.Event()
    engine.script = [Started(), Delta(text="Hel"), release, Delta(text="lo"), ANSWER[-1]]
    queue = QueuedEngine(engine, QueueSettings())

    async def ask(http: aiohttp.ClientSession) -> tuple[int, dict[str, Any]]:
        async with http.post("/v1/chat/completions", json=ASK) as response:
            return response.status, await response.json()

    async def then(http: aiohttp.ClientSession) -> None:
        """What a load balancer and a newcomer see during the stop."""
        await asyncio.sleep(0.05)
        async with http.get("/health/ready") as response:
            assert response.status == 503
            assert (await response.json())["reason"] == "the node is being stopped"
        assert (await ask(http))[0] == 503
        release.set()

    connector = aiohttp.TCPConnector(limit=0)
    async with open_http(HttpSettings(port=0), BridgeContext("pi5", queue)) as server:
        http = aiohttp.ClientSession(server.url, connector=connector)
        begun = asyncio.create_task(ask(http))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(ask(http))
        await asyncio.sleep(0.05)
        watcher = asyncio.create_task(then(http))
    async with http:
        await watcher
        status, body = await begun
        assert (status, body["choices"][0]["message"]["content"]) == (200, "Hello")
        status, body = await waiting
        assert (status, body["error"]["code"]) == (503, "shutting_down")


async def test_what_has_begun_and_does_not_end_is_ended(engine: ScriptedEngine) -> None:
    engine.script = [Started(), Delta(text="Hel"), asyncio.Event()]
    settings = HttpSettings(port=0, stop_timeout_s=0.2)
    async with open_http(settings, BridgeContext("pi5", engine)) as server:
        http = aiohttp.ClientSession(server.url)
        asked = asyncio.create_task(http.post("/v1/chat/completions", json=ASK))
        await asyncio.sleep(0.05)
        begin = time.monotonic()
    assert 0.15 < time.monotonic() - begin < 2
    async with http, await asked as response:
        assert response.status == 503
    assert engine.num_running == 0


async def test_the_dashboard_shows_metrics_that_exist(
    queue: QueuedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_llm.device.host._temperature", lambda: 51.0)  # a VM has no sensor
    device = tmp_path / "pci" / "0001:01:00.0"
    device.mkdir(parents=True)
    (device / "current_link_speed").write_text("5.0 GT/s PCIe\n")
    (device / "current_link_width").write_text("1\n")
    settings = DeviceSettings(axcl_smi=card_tool(tmp_path, "table_busy"))
    monitor = DeviceMonitor(settings, pci=device.parent)
    await monitor.read()
    async with (
        open_http(
            HttpSettings(port=0), BridgeContext("pi5", queue, stats=queue.stats, monitor=monitor)
        ) as server,
        aiohttp.ClientSession(server.url) as http,
    ):
        async with http.post("/v1/chat/completions", json=ASK) as response:
            assert response.status == 200
        names = {name.partition("[")[0] for name in await scrape(http)}
    dashboard = json.loads((DOCS / "grafana" / "edge-llm.json").read_text())
    told = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    shown = set(re.findall(r"\b(?:edge_llm|process)_\w+", told))
    assert len(shown) > 10
    assert shown <= names


async def test_metrics_tell_the_readings_of_the_device(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    # Read whenever it is asked, without the pause between two readings.
    settings = DeviceSettings.model_construct(
        axcl_smi=card_tool(tmp_path, "table_busy"), interval_s=0.0
    )
    monitor = DeviceMonitor(settings)
    async with (
        open_http(HttpSettings(port=0), BridgeContext("pi5", engine, monitor=monitor)) as server,
        aiohttp.ClientSession(server.url) as http,
    ):
        assert not any("_host_" in name for name in await scrape(http))
        await monitor.read()
        found = await scrape(http)
        [answers] = [name for name in found if name.startswith("edge_llm_card_answers")]
        assert "V3.10.2" in answers
        assert found[answers] == 1
        assert found["edge_llm_card_temperature_celsius['0']"] == 49
        assert found["edge_llm_card_npu_ratio['0']"] == pytest.approx(0.81)
        assert found["edge_llm_card_cmm_used_bytes['0']"] == 6348 * 2**20
        assert found["edge_llm_host_memory_available_bytes"] > 0
        assert found["edge_llm_device_reading_age_seconds"] < 5
        card_tool(tmp_path, "table_shell_fails_80300181")
        await monitor.read()
        found = await scrape(http)
        [answers] = [name for name in found if name.startswith("edge_llm_card_answers")]
        assert found[answers] == 0
        assert "edge_llm_card_cmm_used_bytes['0']" not in found
        card_tool(tmp_path, "index_out_of_range")
        await monitor.read()
        found = await scrape(http)
        assert not any(name.startswith("edge_llm_card_answers") for name in found)
        assert (
            0
            < found["edge_llm_device_reading_age_seconds"]
            < found["edge_llm_card_reading_age_seconds"]
        )
