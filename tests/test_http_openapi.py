"""The description of the bridge: it is OpenAPI, and it is complete."""

from typing import Any

import aiohttp
import jsonschema
import pytest

from bridges.http import open_http
from bridges.http.auth import hash_key
from edge_llm.plugin import BridgeContext
from edge_llm.settings import ApiKeySettings, HttpSettings
from tests.fakes import ScriptedEngine

KEY = ApiKeySettings(name="lamp", sha256=hash_key("sk-lamp"))
BODIES: dict[str, Any] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "stop": "x"},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/api/chat": {"messages": [{"role": "user", "content": "Hi"}], "stream": False},
    "/api/generate": {"prompt": "Hi", "stream": False},
}


async def describe(**settings: Any) -> dict[str, Any]:
    headers = {"api-key": "sk-lamp"}
    async with (
        open_http(
            HttpSettings(port=0, **settings), BridgeContext("pi5", ScriptedEngine())
        ) as server,
        aiohttp.ClientSession(server.url, headers=headers) as http,
        http.get("/openapi.json") as response,
    ):
        document: dict[str, Any] = await response.json()
        return document


def schema_of(document: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    return {**content["application/json"]["schema"], "components": document["components"]}


async def test_each_operation_says_what_it_is_for_and_how_it_fails() -> None:
    document = await describe()
    assert document["openapi"].startswith("3.1")
    assert "security" not in document
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"].endswith("."), (method, path)
            assert set(operation["responses"]) == {"200", "default"}
            assert (method == "post") == ("requestBody" in operation)


async def test_where_keys_are_needed_it_says_so() -> None:
    assert (await describe(key=(KEY,)))["security"] == [{"key": []}]


@pytest.mark.parametrize("path", BODIES)
async def test_what_is_sent_and_replied_fits_the_description(path: str) -> None:
    document = await describe()
    operation = document["paths"][path]["post"]
    body = BODIES[path] | ({"model": "scripted"} if path.startswith("/api") else {})
    jsonschema.validate(body, schema_of(document, operation["requestBody"]["content"]))
    async with (
        open_http(HttpSettings(port=0), BridgeContext("pi5", ScriptedEngine())) as server,
        aiohttp.ClientSession(server.url) as http,
    ):
        async with http.post(path, json=body) as response:
            assert response.status == 200
            reply = await response.json()
        jsonschema.validate(reply, schema_of(document, operation["responses"]["200"]["content"]))
        async with http.post(path, data=b"{") as response:
            assert response.status == 400
            reply = await response.json()
        error = operation["responses"]["default"]["content"]
        jsonschema.validate(reply, schema_of(document, error))
