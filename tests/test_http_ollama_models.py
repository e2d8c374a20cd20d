"""Ollama's list of models, and what it can do with them that a node can't."""

import json
from collections.abc import AsyncIterator

import ollama
import pytest

from tests.http_bridge import HttpBridge, PlayedEngine, open_bridge
from tests.ollama_bridge import make_engine, refusal


@pytest.fixture
def engine() -> PlayedEngine:
    return make_engine()


@pytest.fixture
async def bridge(engine: PlayedEngine) -> AsyncIterator[HttpBridge]:
    async with open_bridge(engine, model_aliases=("qwen3-*",)) as bridge:
        yield bridge


@pytest.fixture
async def client(bridge: HttpBridge) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(host=bridge.server.url) as client:
        yield client


@pytest.mark.parametrize("name", ["tiny", "tiny:latest", "qwen3-ax650", "qwen3-ax650:latest"])
async def test_a_model_is_found_with_and_without_its_tag(
    client: ollama.AsyncClient, engine: PlayedEngine, name: str
) -> None:
    assert (await client.generate(name, "Hello")).model == name
    assert engine.asked[0].model == "tiny"
    assert (await client.show(name)).capabilities == ["completion", "tools", "thinking"]


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/show"])
async def test_another_model_is_not_found(bridge: HttpBridge, path: str) -> None:
    status, said = await refusal(bridge, path, {"model": "llama3"})
    assert (status, said) == (404, "model 'llama3' not found (there are: tiny:latest)")


async def test_without_a_name_the_only_model_answers(bridge: HttpBridge) -> None:
    reply = await bridge.post("/api/generate", {"prompt": "Hello", "stream": False})
    assert (reply["model"], reply["response"]) == ("tiny:latest", "Good evening.")
    assert await refusal(bridge, "/api/show", {}) == (400, "model is required")


async def test_models_are_listed(client: ollama.AsyncClient, engine: PlayedEngine) -> None:
    [listed] = (await client.list()).models
    assert listed.model == "tiny:latest"
    assert listed.digest
    assert len(listed.digest) == 64
    assert listed.details
    assert (listed.details.format, listed.details.quantization_level) == ("onnx", "int8")
    [running] = (await client.ps()).models
    assert (running.name, running.digest) == ("tiny:latest", listed.digest)
    assert running.context_length == 512
    assert running.expires_at
    assert running.expires_at.year > 2100
    engine.models = ()
    assert (await client.list()).models == []
    assert (await client.ps()).models == []


async def test_a_model_is_shown(client: ollama.AsyncClient, bridge: HttpBridge) -> None:
    shown = await client.show("tiny")
    assert shown.modelinfo
    architecture = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{architecture}.context_length"] == 512
    assert shown.parameters
    assert shown.parameters.split() == ["num_ctx", "512", "num_predict", "256"]
    assert (await bridge.post("/api/show", {"name": "tiny"}))["capabilities"]


async def test_a_model_that_loads_is_waited_for(
    client: ollama.AsyncClient, bridge: HttpBridge, engine: PlayedEngine
) -> None:
    engine.models = ()
    assert (await client.generate("tiny", "Hello")).response == "Good evening."
    status, said = await refusal(bridge, "/api/show", {"model": "tiny"})
    assert (status, said) == (503, "there is no model 'tiny' yet: it loads")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
async def test_whoever_looks_for_ollama_finds_it(
    bridge: HttpBridge, method: str, path: str
) -> None:
    async with bridge.http.request(method, path) as response:
        assert response.status == 200
        text = await response.text()
    if method == "GET" and path == "/":
        assert text.startswith("Ollama is running")
        assert "edge-llm" in text
    if method == "GET" and path == "/api/version":
        assert json.loads(text)["version"] == "0.12.11"


async def test_embeddings_are_refused(client: ollama.AsyncClient) -> None:
    with pytest.raises(ollama.ResponseError, match="no model for embeddings") as caught:
        await client.embed("tiny", "Hello")
    assert caught.value.status_code == 501
    with pytest.raises(ollama.ResponseError, match="no model for embeddings"):
        await client.embeddings("tiny", "Hello")


async def test_models_are_not_changed_over_http(client: ollama.AsyncClient) -> None:
    for attempt in (
        client.pull("tiny"),
        client.push("tiny"),
        client.create("mine", from_="tiny"),
        client.copy("tiny", "mine"),
        client.delete("tiny"),
    ):
        with pytest.raises(ollama.ResponseError, match="is set where it is started") as caught:
            await attempt
        assert caught.value.status_code == 501
    with pytest.raises(ollama.ResponseError, match="is set where it is started"):
        async for _ in await client.pull("tiny", stream=True):
            pass
