"""Who may ask over HTTP, how often, from which pages, and under which name it is logged."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import ClientResponse
from structlog.testing import capture_logs

from bridges.http import HttpServer, open_http
from bridges.http.auth import Keys, hash_key, make_key
from bridges.http.rate_limit import RateLimit
from edge_llm.errors import AuthenticationError, ConfigurationError, RateLimitedError
from edge_llm.plugin import BridgeContext
from edge_llm.protocol import Delta, Done, Started
from edge_llm.settings import ApiKeySettings, HttpSettings, load_settings
from tests.clients import eventually
from tests.fakes import ScriptedEngine

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
LAMP, RADIO = make_key(), make_key()
KEYS = (
    ApiKeySettings(name="lamp", sha256=hash_key(LAMP)),
    ApiKeySettings(name="radio", sha256=hash_key(RADIO), requests_per_min=2),
)
PAGE = "https://example.org"


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    settings = HttpSettings(port=0, key=KEYS, cors_origins=(PAGE,))
    async with open_http(settings, BridgeContext("pi5", ScriptedEngine())) as server:
        yield server


@pytest.fixture
async def http(server: HttpServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url) as session:
        yield session


async def code(response: ClientResponse) -> tuple[int, str]:
    return response.status, (await response.json())["error"]["code"]


async def test_without_a_key_nothing_is_answered_but_health(http: aiohttp.ClientSession) -> None:
    for path in ("/v1/models", "/metrics", "/nowhere"):
        async with http.get(path) as response:
            assert await code(response) == (401, "unauthorized")
    async with http.post("/v1/chat/completions", json=ASK) as response:
        assert await code(response) == (401, "unauthorized")
        assert response.headers["X-Should-Retry"] == "false"
    for path in ("/health", "/health/ready"):
        async with http.get(path) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": f"Bearer {LAMP}"}, {"api-key": LAMP}, {"X-Api-Key": LAMP}],
    ids=lambda headers: next(iter(headers)),
)
async def test_a_key_opens_in_each_of_its_headers(
    http: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    async with http.post("/v1/chat/completions", json=ASK, headers=headers) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "key", [LAMP[:-1], LAMP + "x", hash_key(LAMP), "", "Bearer", "ключ"], ids=range(6)
)
async def test_a_wrong_key_does_not(http: aiohttp.ClientSession, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    async with http.get("/v1/models", headers=headers) as response:
        assert await code(response) == (401, "unauthorized")


async def test_openais_client_says_what_is_wrong(server: HttpServer) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="sk-wrong") as client:
        with pytest.raises(openai.AuthenticationError, match="not one of this node's"):
            await client.models.list()
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=LAMP) as client:
        assert [model.id async for model in client.models.list()]


async def test_a_key_has_its_own_limit(http: aiohttp.ClientSession) -> None:
    headers = {"Authorization": f"Bearer {RADIO}"}
    for _ in range(2):
        async with http.get("/v1/models", headers=headers) as response:
            assert response.status == 200
    async with http.get("/v1/models", headers=headers) as response:
        assert await code(response) == (429, "rate_limited")
        assert 1 <= int(response.headers["Retry-After"]) <= 30
    async with http.get("/v1/models", headers={"api-key": LAMP}) as response:
        assert response.status == 200


def test_a_rate_is_so_many_at_once_and_then_as_time_passes() -> None:
    now = 100.0
    limit = RateLimit(4, lambda: now)
    assert [limit.take() for _ in range(6)] == [0, 0, 0, 0, 15, 15]
    now += 14
    assert limit.take() == pytest.approx(1)
    now += 1
    assert limit.take() == 0
    assert limit.take() == pytest.approx(15)
    now += 3600
    assert [limit.take() for _ in range(5)] == [0, 0, 0, 0, 15]


def test_keys_are_told_apart() -> None:
    keys = Keys(KEYS)
    assert (keys.admit(LAMP), keys.admit(RADIO)) == ("lamp", "radio")
    with pytest.raises(AuthenticationError):
        keys.admit(None)
    keys.admit(RADIO)
    with pytest.raises(RateLimitedError):
        keys.admit(RADIO)


def test_the_key_itself_is_in_no_setting() -> None:
    assert LAMP not in repr(KEYS)
    with pytest.raises(ValueError, match="sha256"):
        ApiKeySettings(name="lamp", sha256=LAMP)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", ""])
def test_an_open_address_without_keys_must_be_said_twice(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_LLM_HTTP__HOST", host)
    with pytest.raises(ConfigurationError, match="allow_anonymous_on"):
        load_settings()
    monkeypatch.setenv("EDGE_LLM_HTTP__ALLOW_ANONYMOUS_ON", host)
    assert load_settings().http.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_loopback_is_open(host: str) -> None:
    assert HttpSettings(host=host).key == ()


def test_an_open_address_with_a_key_is_allowed() -> None:
    assert HttpSettings(host="0.0.0.0", key=KEYS).key == KEYS


async def test_pages_of_a_listed_origin_may_ask(http: aiohttp.ClientSession) -> None:
    asked = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    async with http.options("/v1/chat/completions", headers=asked) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert "AUTHORIZATION" in response.headers["Access-Control-Allow-Headers"].upper()
    headers = {"Origin": PAGE, "api-key": LAMP}
    for stream in (False, True):
        async with http.post(
            "/v1/chat/completions", json=ASK | {"stream": stream}, headers=headers
        ) as response:
            assert response.headers["Access-Control-Allow-Origin"] == PAGE
    async with http.get("/v1/models", headers={"Origin": PAGE}) as response:
        assert response.status == 401  # and the page may read why
        assert response.headers["Access-Control-Allow-Origin"] == PAGE


async def test_other_pages_may_not(http: aiohttp.ClientSession) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    async with http.options("/v1/chat/completions", headers=asked) as response:
        assert response.status == 403
    headers = {"Origin": "https://evil.example", "api-key": LAMP}
    async with http.get("/v1/models", headers=headers) as response:
        assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("http://192.168.1.9", 403),
        ("null", 403),
        ("http://[", 403),
        (PAGE, 200),
        ("http://localhost:3000", 200),
        ("http://127.0.0.1:8080", 200),
        ("vscode-webview://1c2b", 200),
        ("itself", 200),
    ],
)
async def test_a_page_can_not_send_what_it_may_not_read(
    server: HttpServer, http: aiohttp.ClientSession, origin: str, status: int
) -> None:
    """As text, which a browser sends without asking."""
    origin = server.url if origin == "itself" else origin
    headers = {"Origin": origin, "api-key": LAMP, "Content-Type": "text/plain"}
    async with http.post("/v1/chat/completions", data=json.dumps(ASK), headers=headers) as response:
        assert response.status == status
        if status == 403:
            assert "http.cors_origins" in (await response.json())["error"]["message"]


async def test_a_request_has_a_name_that_the_log_knows(http: aiohttp.ClientSession) -> None:
    headers = {"api-key": LAMP, "X-Request-Id": "visit-7"}
    async with http.post("/v1/chat/completions", json=ASK, headers=headers) as response:
        assert response.headers["X-Request-Id"] == "visit-7"
    headers = {"api-key": LAMP, "X-Request-Id": "a b" * 100}
    async with http.get("/v1/models", headers=headers) as response:
        made = response.headers["X-Request-Id"]
        assert made != headers["X-Request-Id"]
        assert made.startswith("req_")
    with capture_logs() as logs:
        async with http.get("/v1/models", headers={"X-Request-Id": "no-key"}) as response:
            assert response.headers["X-Request-Id"] == "no-key"
    assert [entry["code"] for entry in logs] == ["unauthorized"]


async def test_a_body_that_does_not_come_is_not_waited_for(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.http.body.READ_TIMEOUT_S", 0.1)
    reader, writer = await asyncio.open_connection(server.address, server.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\napi-key: {LAMP}\r\n"
    writer.write(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
    reply = await asyncio.wait_for(reader.readuntil(b"}}"), 5)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b"did not come within 0.1 s" in reply
    writer.close()
    await writer.wait_closed()


async def test_headers_have_a_limit(server: HttpServer) -> None:
    reader, writer = await asyncio.open_connection(server.address, server.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n")
    assert b" 400 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()


async def test_one_request_too_many_is_told_to_come_back() -> None:
    release = asyncio.Event()
    engine = ScriptedEngine([Started(), release, Delta(text="Hi"), Done(finish_reason="stop")])
    settings = HttpSettings(port=0, max_concurrent=2)
    async with (
        open_http(settings, BridgeContext("pi5", engine)) as server,
        aiohttp.ClientSession(server.url) as http,
    ):
        held = [asyncio.create_task(http.post("/v1/chat/completions", json=ASK)) for _ in range(2)]
        await eventually(lambda: len(engine.requests) == 2)
        async with http.post("/v1/chat/completions", json=ASK) as response:
            assert await code(response) == (503, "unavailable")
            assert response.headers["Retry-After"] == "5"
        async with http.get("/health") as response:
            assert response.status == 200
        release.set()
        for task in held:
            assert (await task).status == 200
        async with http.post("/v1/chat/completions", json=ASK) as response:
            assert response.status == 200
