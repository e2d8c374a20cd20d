"""Several HTTP doors of a fleet behind nginx, with the configuration that we ship."""

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.clients import eventually
from tests.fleet_stage import fleet_mqtt, fleet_node
from tests.nats import NatsServer, nats_servers
from tests.programs import (
    HOST,
    STOP_TIMEOUT_S,
    accepts,
    free_port,
    require_program,
    wait_until,
)
from tests.test_fleet_http import PAGELESS, READY, SPEAKS, Door, open_door

SHIPPED = Path(__file__).parents[1] / "nats" / "nginx-doors.conf"
CHAT = 'edge_llm_http_requests_total{method="POST",route="/v1/chat/completions",status="200"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_servers(tmp_path_factory.mktemp("nats")) as [server]:
        yield server


@contextmanager
def nginx(folder: Path, *urls: str) -> Iterator[str]:
    """Run nginx in front of doors; give its address."""
    program = require_program("nginx", "nginx-light")
    port, addresses = free_port(), iter(urls)
    shipped = re.sub(
        r"10\.0\.0\.\d+:8000",
        lambda _: next(addresses).removeprefix("http://"),
        SHIPPED.read_text(),
    ).replace("listen 8000", f"listen {HOST}:{port}")
    assert next(addresses, None) is None  # all of them are in it
    (folder / "doors.conf").write_text(shipped)
    places = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config, log = folder / "nginx.conf", folder / "nginx.log"
    config.write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log {log};\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{places}include {folder}/doors.conf;\n}}\n"
    )
    with log.open("ab") as output:
        process = subprocess.Popen(
            [program, "-e", str(log), "-c", str(config)], stdout=output, stderr=output
        )
    try:
        wait_until(lambda: accepts(port), process, log)
        yield f"http://{HOST}:{port}"
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)


@pytest.fixture
async def doors(server: NatsServer) -> AsyncIterator[list[tuple[Door, AsyncExitStack]]]:
    """Two of them, and what closes each."""
    async with AsyncExitStack() as stack:
        doors = []
        for _ in range(2):
            closing = await stack.enter_async_context(AsyncExitStack())
            doors.append(
                (await closing.enter_async_context(open_door(fleet_mqtt(server))), closing)
            )
        yield doors


async def num_answered(door: Door) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{door.url}/metrics") as response:
        text = await response.text()
    found = re.search(rf"^{re.escape(CHAT)} (\S+)$", text, re.MULTILINE)
    return round(float(found[1])) if found else 0


async def test_a_door_may_go_and_nobody_sees_it(
    server: NatsServer, doors: list[tuple[Door, AsyncExitStack]], tmp_path: Path
) -> None:
    (first, _), (second, closing) = doors
    async with fleet_node(server, "a", **READY):
        for door, _ in doors:
            await door.becomes(200, "ready")
        with nginx(tmp_path, first.url, second.url) as url:
            front = Door(url)
            async with front.openai:
                asked = [front.ask() for _ in range(12)]
                assert await asyncio.gather(*asked) == ["Good evening."] * 12
                shares = [await num_answered(door) for door, _ in doors]
                assert sum(shares) == 12
                assert min(shares) >= 3, shares
                await closing.aclose()
                assert [await front.ask() for _ in range(6)] == ["Good evening."] * 6
                assert await num_answered(first) == shares[0] + 6


async def test_words_come_as_they_are_said_and_who_leaves_is_noticed(
    server: NatsServer, doors: list[tuple[Door, AsyncExitStack]], tmp_path: Path
) -> None:
    speaking = {**PAGELESS, "engine": {"kind": "paced", "paced": {**SPEAKS, "text": "so " * 300}}}
    async with fleet_node(server, "a", **speaking) as a:
        for door, _ in doors:
            await door.becomes(200, "ready")
        with nginx(tmp_path, *(door.url for door, _ in doors)) as url:
            front = Door(url)
            async with front.openai:
                stream = await front.ask(stream=True)
                async for chunk in stream:
                    if chunk.choices[0].delta.content:
                        break
                assert a.engine.health().running  # it is in the midst of it
                await stream.close()
                await eventually(lambda: not a.engine.health().running)
                assert a.engine.stats.counts().requests == {"cancelled": 1}
