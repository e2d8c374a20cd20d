"""What the status page is told over the wire, and that telling it costs the node nothing."""

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest

from bridges.http import open_http
from bridges.http.auth import hash_key
from bridges.http.page.files import FILES
from bridges.http.page.ring import Ring
from edge_llm.errors import DeviceLostError, EngineFailedError
from edge_llm.node import open_node
from edge_llm.plugin import BridgeContext
from edge_llm.protocol import ChatRequest, Delta, Done, Started
from edge_llm.settings import HttpSettings, Settings
from tests.brokers import Mosquitto
from tests.clients import RawClient, eventually
from tests.fakes import ScriptedEngine
from tests.http_bridge import ENDLESS, PlayedEngine, open_bridge, talk
from tests.page_stage import EVENTS, PageStage, ask, open_page_stage, updates

KEY = {"name": "lamp", "sha256": hash_key("sk-lamp")}
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
MAX_BYTES = 60_000
SECRET, ANSWER = "a-question-of-mine", "an-answer-to-it"
CARD = Path(__file__).parent / "data" / "axcl_smi"
WHOLE = {"now_s", "about", "state", "in_hand", "said", "ended", "samples", "spans", "marks"}


@pytest.fixture
async def stage() -> AsyncIterator[PageStage]:
    async with open_page_stage() as stage:
        yield stage


@pytest.fixture
async def http(stage: PageStage) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(stage.url) as session:
        yield session


async def status(http: aiohttp.ClientSession) -> dict[str, Any]:
    async with http.get("/status") as response:
        assert response.status == 200, await response.text()
        assert response.headers["Cache-Control"] == "no-store"
        body: dict[str, Any] = await response.json()
        return body


def test_the_page_is_small_and_asks_nobody_else() -> None:
    sizes = {path: len(file.body) for path, file in FILES.items()}
    print(f"\nstatus page: {sum(sizes.values())} bytes of {MAX_BYTES}: {sizes}")
    assert sum(sizes.values()) <= MAX_BYTES
    for path, file in FILES.items():
        text = file.body.decode()
        outside = set(re.findall(r"(?:https?:)?//[a-z][\w.]+", text))
        assert outside <= {"http://www.w3.org"}, path  # the name of SVG, which nobody opens
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text), (
            path
        )
    html = FILES["/"].body.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! type=\"module\" src=)", html)
    named = set(re.findall(r'(?:href|src)="(page/[^"]+)"', html))
    assert {f"/{name}" for name in named} == FILES.keys() - {"/"}


async def test_a_browser_gets_the_page_and_whoever_looks_for_ollama_finds_it() -> None:
    async with open_page_stage(key=[KEY]) as stage, aiohttp.ClientSession(stage.url) as http:
        for path in FILES:
            async with http.get(path, headers=HTML) as response:
                assert (response.status, await response.read()) == (200, FILES[path].body)
                policy = response.headers["Content-Security-Policy"]
                assert policy.startswith("default-src 'none'; script-src 'self'; ")
                assert "unsafe" not in policy
                assert "*" not in policy
                etag = response.headers["ETag"]
            async with http.get(path, headers={**HTML, "If-None-Match": etag}) as response:
                assert (response.status, await response.read()) == (304, b"")
            async with http.head(path, headers=HTML) as response:
                assert (response.status, await response.read()) == (200, b"")
        async with http.get("/") as response:
            assert response.status == 401
        async with http.get("/", headers={"api-key": "sk-lamp"}) as response:
            assert (await response.text()).startswith("Ollama is running")
            assert response.headers["Vary"] == "Accept"
        for path in ("/status", "/status/try"):
            async with http.get(path, headers={**HTML, **EVENTS}) as response:
                assert response.status == 401


async def test_it_can_be_switched_off() -> None:
    settings = HttpSettings.model_validate({"port": 0, "page": {"enabled": False}})
    async with (
        open_http(settings, BridgeContext("pi5", ScriptedEngine())) as server,
        aiohttp.ClientSession(server.url) as http,
    ):
        async with http.get("/", headers=HTML) as response:
            assert (await response.text()).startswith("Ollama is running")
        for path in ("/status", "/page/page.js"):
            async with http.get(path) as response:
                assert response.status == 404
        async with http.get("/openapi.json") as response:
            assert "/status" not in (await response.json())["paths"]


async def test_the_status_is_as_described(stage: PageStage, http: aiohttp.ClientSession) -> None:
    stage.read()
    stage.stats.note_fault(DeviceLostError("the card did not answer"))
    stage.stats.note_step("reboot_card", "the card did not answer", 2)
    await ask(stage.url, "say Good evening.")
    assert await ask(stage.url, "fail") == "internal"
    held = asyncio.create_task(ask(stage.url, "hold on"))
    await eventually(lambda: stage.engine.num_running)
    body = await status(http)
    async with http.get("/openapi.json") as response:
        document = await response.json()
    content = document["paths"]["/status"]["get"]["responses"]["200"]["content"]
    schema = {**content["application/json"]["schema"], "components": document["components"]}
    jsonschema.validate(body, schema)
    assert set(body) == WHOLE
    assert body["about"]["node"] == "stage-left"
    assert body["about"]["thermal"]["hot"] == 75
    assert body["about"]["presets"] == ["oracle", "robot"]
    assert (body["state"]["state"], body["state"]["activity"]) == ("ready", "generating")
    assert body["state"]["health"]["card"]["temperature_celsius"] == 54
    assert [(e["number"], e["via"], e["outcome"], e["has_failed"]) for e in body["ended"]] == [
        (1, "http", "stop", False),
        (2, "http", "internal", True),
    ]
    assert body["ended"][0]["completion_tokens"] == 2
    [in_hand] = body["in_hand"]
    assert (in_hand["number"], in_hand["chars"], in_hand["position"]) == (3, 4, None)
    [sample] = body["samples"]
    assert (sample["card_celsius"], sample["cmm_used_mib"], sample["host_used_mib"]) == (
        54,
        3100,
        2592,
    )
    assert [(mark["kind"], mark["word"]) for mark in body["marks"]] == [
        ("fault", "device_lost"),
        ("step", "reboot_card"),
    ]
    stage.engine.release.set()
    await held


async def test_a_stream_tells_all_and_then_what_is_new(
    stage: PageStage, http: aiohttp.ClientSession
) -> None:
    stage.read()
    async with (
        http.get("/status", headers=EVENTS) as response,
        aclosing(updates(response)) as told,
    ):
        assert response.headers["Content-Type"].startswith("text/event-stream")
        first = await anext(told)
        assert set(first) == WHOLE
        assert len(first["samples"]) == 1
        asked = asyncio.create_task(ask(stage.url, "hold this thought"))
        seen: dict[str, Any] = {}
        while not seen.get("in_hand") or not seen["in_hand"][0]["chars"]:
            seen |= await anext(told)
        assert "about" not in seen
        assert "samples" not in seen
        stage.read(81)
        stage.engine.release.set()
        assert await asked == "hold this thought"
        while not (seen.get("ended") and seen.get("samples")):
            seen |= await anext(told)
        assert [ended["number"] for ended in seen["ended"]] == [1]
        assert [sample["card_celsius"] for sample in seen["samples"]] == [81]
        while seen["in_hand"]:
            seen |= await anext(told)


async def test_tokens_come_faster_than_they_are_told(
    stage: PageStage, http: aiohttp.ClientSession
) -> None:
    async with (
        http.get("/status", headers=EVENTS) as response,
        aclosing(updates(response)) as told,
    ):
        await anext(told)
        begin, num_told = time.monotonic(), 0
        asked = asyncio.create_task(ask(stage.url, "say" + " word" * 5000))
        update: dict[str, Any] = {}
        while not update.get("ended"):
            update = await anext(told)
            num_told += 1
        assert num_told <= (time.monotonic() - begin) / 0.1 + 2
        assert (await asked).count("word") == 5000


@pytest.mark.parametrize("texts", [False, True])
async def test_texts_leave_the_node_only_if_that_is_switched_on(
    texts: bool, mosquitto: Mosquitto
) -> None:
    """Whatever way a request comes, and whether it is in hand, has ended, or has failed."""
    raw = bytearray()

    async def listen(url: str) -> None:
        async with (
            aiohttp.ClientSession(url) as http,
            http.get("/status", headers=EVENTS) as response,
        ):
            async for piece in response.content.iter_any():
                raw.extend(piece)

    settings = Settings.model_validate(
        {
            "node": "pi5",
            "mqtt": {"port": mosquitto.port},
            "http": {"port": 0, "page": {"texts": texts}},
            "engine": {
                "kind": "paced",
                "paced": {"text": f"{ANSWER} is said", "ttft_s": 0.15, "tokens_per_s": 8},
            },
        }
    )
    async with open_node(settings) as node, RawClient(mosquitto.port) as client:
        assert node.http
        await client.subscribe("llm/response/#", "llm/node/#")
        await eventually(lambda: b"online" in client.payloads("llm/node/pi5/status"))
        listening = asyncio.create_task(listen(f"{node.http.url}/"))
        client.publish("llm/request/esp1/button7", f"{SECRET} over MQTT")
        assert await ask(f"{node.http.url}/", f"{SECRET} over HTTP") == f"{ANSWER} is said"
        await client.wait_for("llm/response/esp1/button7")
        await eventually(lambda: raw.count(b'"outcome":"stop"') == 2)
        async with aiohttp.ClientSession(node.http.url) as http:
            body = await status(http)
            raw.extend(json.dumps(body).encode())
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
    assert {(ended["via"], ended["id"]) for ended in body["ended"]} == {
        ("mqtt", "esp1/button7"),
        ("http", None),
    }
    for text in (f"{SECRET} over MQTT", f"{SECRET} over HTTP", f"{ANSWER} is said"):
        assert (text.encode() in raw) == texts
    assert (b'"said":[{' in raw) == texts
    assert (SECRET.encode() in raw) == (ANSWER.encode() in raw) == texts


async def test_a_reader_that_does_not_read_delays_nobody() -> None:
    """Its socket is full and stays full; and when it reads again it hears how it is now."""
    async with open_page_stage(page={"texts": True}) as stage:
        assert stage.server
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, (stage.server.address, stage.server.port))
            await loop.sock_sendall(
                sock, b"GET /status HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
            )
            await eventually(lambda: stage.page.feed.num_readers)
            # More than the system takes for a socket.
            stage.page.requests.ended.add({"prompt": "a" * 12_000_000})  # type: ignore[typeddict-item] # bulk
            await ask(stage.url, "say hi")
            stage.engine.step_s = 0.005
            for number in range(12):
                assert str(number) in await ask(stage.url, f"say {number}" + " word" * 20)
            assert stage.page.feed.num_readers == 1
            heard, last = bytearray(), f'"number":{stage.stats._num_requests},'.encode()
            while last not in heard[-100_000:]:
                heard += await asyncio.wait_for(loop.sock_recv(sock, 1 << 20), 5)
        # The first word, perhaps one before the large one, that, and the last.
        assert heard.count(b"data: {") <= 4


async def test_there_is_room_for_so_many_readers(stage: PageStage) -> None:
    async with aiohttp.ClientSession(stage.url, connector=aiohttp.TCPConnector(limit=0)) as http:
        readers = [await http.get("/status", headers=EVENTS) for _ in range(16)]
        assert [reader.status for reader in readers] == [200] * 16
        async with http.get("/status", headers=EVENTS) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
        assert (await status(http))["state"]["state"] == "ready"  # asking once is free
        readers[0].close()
        await eventually(lambda: stage.page.feed.num_readers == 15)
        async with http.get("/status", headers=EVENTS) as response:
            assert response.status == 200
        for reader in readers:
            reader.close()


async def test_open_pages_keep_no_requests_out() -> None:
    async with (
        open_page_stage(max_concurrent=4) as stage,
        aiohttp.ClientSession(stage.url) as http,
        http.get("/status", headers=EVENTS) as first,
    ):
        assert first.status == 200
        async with http.get("/status", headers=EVENTS) as second:
            assert second.status == 503
        assert await ask(stage.url, "say hi") == "hi"


async def test_memory_is_bounded_whatever_happens(stage: PageStage) -> None:
    page, request = stage.page, ChatRequest(prompt="x" * 10_000)
    words = ("ready", "hot", "cooling")
    for number in range(3000):
        stage.read(40 + number % 40)
        page.history.note_state(words[number % 3], page._now_s())
        stage.stats.note_fault(EngineFailedError("again"))
        stage.pass_time(2)  # or it would be the same fault
        page.history.note_trouble(stage.report(), page._now_s())
        taken = stage.stats.take(request)
        stage.stats.hear(taken, request, Delta(text="y" * 100))
        if number % 2:
            stage.stats.note("stop", timing=Done(finish_reason="stop").timing, number=taken)
    sizes = [
        len(kept)
        for kept in (
            page.history.samples,
            page.history.spans,
            page.history.marks,
            page.requests.ended,
            page.requests.in_hand,
        )
    ]
    assert sizes[:4] == [361, 240, 60, 50]
    assert 0 < sizes[4] <= 512
    text, _ = page.feed.update()
    assert len(text) < 120_000
    # Those in hand were lost by an engine that crashed: the queue knows nothing of them.
    await eventually(lambda: not page.requests.in_hand)


async def test_what_is_older_than_an_hour_goes(
    stage: PageStage, http: aiohttp.ClientSession
) -> None:
    stage.live_through(lambda minutes: 40 + minutes, seconds=7200)
    stage.engine.state = stage.engine.activity = "recovering"
    await eventually(lambda: len(stage.page.history.spans) == 2)
    stage.pass_time(1800)
    stage.read()
    body = await status(http)
    begin = body["now_s"] - body["about"]["span_s"]
    assert 60 <= len(body["samples"]) <= 61
    assert all(sample["at_s"] >= begin - 1 for sample in body["samples"])
    # The state that lasts into the hour is known, though it began before.
    assert [span["word"] for span in body["spans"]] == ["ready", "recovering"]
    assert body["spans"][0]["at_s"] < begin < body["spans"][1]["at_s"]


async def test_states_faults_and_steps_are_told_once(
    stage: PageStage, http: aiohttp.ClientSession
) -> None:
    stage.stats.note_fault(DeviceLostError("lost"))
    stage.engine.state = "recovering"
    stage.stats.note_step("restart", "lost", 1)
    await asyncio.sleep(0)
    stage.engine.state = "ready"
    stage.stats.note_ready()
    await asyncio.sleep(0)
    stage.queue.hold("paused")
    await asyncio.sleep(0)
    stage.queue.release("paused")
    stage.changes = {"heat": "hot"}
    stage.read()
    await eventually(lambda: stage.page.history.spans.total == 5)
    body = await status(http)
    assert [span["word"] for span in body["spans"]] == [
        "ready",
        "recovering",
        "ready",
        "paused",
        "hot",
    ]
    assert [(mark["word"], mark["text"]) for mark in body["marks"]] == [
        ("device_lost", "lost"),
        ("restart", "lost (attempt 1)"),
    ]


async def test_a_stop_is_told_and_ends_the_streams() -> None:
    async with aiohttp.ClientSession() as http:
        async with open_page_stage() as stage:
            response = await http.get(f"{stage.url}status", headers=EVENTS)
            told = updates(response)
            await anext(told)
            begin = time.monotonic()
        assert time.monotonic() - begin < 5  # or stop_timeout_s were over
        last = [update async for update in told][-1]
        assert last["state"]["state"] == last["state"]["activity"] == "stopping"


async def test_where_the_engine_is_elsewhere_this_door_is_told_of() -> None:
    crash = EngineFailedError("it fell over")
    engine = PlayedEngine(talk("Hello"), [Started(), Delta(text="a"), crash], ENDLESS)
    async with open_bridge(engine) as bridge:
        url = f"{bridge.server.url}/"
        assert await ask(url, "one") == "Hello"
        assert await ask(url, "two") == "engine_failed"
        asked = asyncio.create_task(ask(url, "three"))
        await eventually(lambda: engine.num_running)
        body = await status(bridge.http)
        assert [entry["number"] for entry in body["in_hand"]] == [3]
        asked.cancel()
        await eventually(lambda: not engine.num_running)
        body = await status(bridge.http)
    assert not body["about"]["is_here"]
    assert body["state"]["health"] is None
    assert body["in_hand"] == []
    assert [(ended["outcome"], ended["via"]) for ended in body["ended"]] == [
        ("stop", "http"),
        ("engine_failed", "http"),
        ("cancelled", "http"),
    ]
    assert body["ended"][0]["completion_tokens"] == 3


async def test_a_preset_can_be_tried(stage: PageStage, http: aiohttp.ClientSession) -> None:
    asked: list[ChatRequest] = []
    stage.stats.listeners.append(
        lambda _, request, event: asked.append(request) if event is None else None
    )

    async def attempt(body: dict[str, Any]) -> Any:
        async with http.post("/status/try", json=body) as response:
            return await response.json()

    reply = await attempt({})
    assert (reply["text"], reply["finish_reason"]) == ("What do you see?", "stop")
    reply = await attempt({"prompt": "say Beep.", "preset": "robot"})
    assert reply["text"] == "Beep."
    assert reply["usage"]["completion_tokens"] == 1
    assert [[turn.content for turn in request.conversation] for request in asked] == [
        ["You speak in riddles.", "What do you see?"],
        ["You are a robot.", "say Beep."],
    ]
    reply = await attempt({"preset": "pirate"})
    assert reply["error"]["code"] == "preset_not_found"
    reply = await attempt({"preset": "robot"})
    assert reply["error"]["param"] == "prompt"
    async with http.post("/status/try", json={"prompt": "hold on now"}, headers=EVENTS) as response:
        told = updates(response)
        assert await anext(told) == {"type": "started"}
        assert (await anext(told))["text"] == "hold"
        assert stage.engine.num_running
    await eventually(lambda: not stage.engine.num_running)  # whoever leaves frees the engine


async def test_a_real_node_tells_what_its_monitor_reads(tmp_path: Path) -> None:
    tool = tmp_path / "axcl-smi"
    tool.write_text(f"#!/bin/sh\ncat {CARD}/table_busy.stdout.txt\n")
    tool.chmod(0o755)
    settings = Settings.model_validate(
        {
            "mqtt": {"enabled": False},
            "http": {"port": 0},
            "device": {"axcl_smi": str(tool), "thermal": {"hot_celsius": 77}},
            "engine": {"kind": "paced"},
        }
    )
    async with open_node(settings) as node, aiohttp.ClientSession() as http:
        assert node.http
        body: dict[str, Any] = {}
        async with asyncio.timeout(10):
            while not body.get("samples"):
                async with http.get(f"{node.http.url}/status") as response:
                    body = await response.json()
    assert isinstance(body["samples"][0]["card_celsius"], int | float)
    assert body["samples"][0]["cmm_used_mib"] > 0
    assert body["about"]["thermal"]["hot"] == 77


def test_a_ring_knows_what_is_new() -> None:
    ring: Ring[int] = Ring(3)
    assert (ring.latest, ring.since(0)) == (None, [])
    for number in range(5):
        ring.add(number)
    assert (list(ring), ring.total, ring.latest) == ([2, 3, 4], 5, 4)
    assert [ring.since(seen) for seen in (0, 3, 4, 5)] == [[2, 3, 4], [3, 4], [4], []]
    ring.drop_while(lambda number: number < 4)
    assert (list(ring), ring.since(0), ring.since(4)) == ([4], [4], [4])
