"""The names of models over HTTP, and the roots under which OpenAI's paths are found."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types import Model
from pydantic import BaseModel, TypeAdapter

from bridges.http.openai import ENDPOINTS
from edge_llm.protocol import ModelInfo
from tests.http_bridge import HttpBridge, PlayedEngine, open_bridge, talk, user

ASK: Any = {"model": "tiny", "messages": [user()]}


@pytest.fixture
async def bridge() -> AsyncIterator[HttpBridge]:
    async with open_bridge(PlayedEngine(talk("Hi")), model_aliases=("gpt-*",)) as bridge:
        yield bridge


async def test_models_are_listed_and_shown(bridge: HttpBridge) -> None:
    bridge.engine.models = (
        ModelInfo(
            id="tiny",
            context_len=512,
            vocab_size=1000,
            quantization="int8",
            max_tokens=128,
            has_tools=True,
            has_thinking=True,
        ),
    )
    client = bridge.openai
    listed = [model async for model in client.models.list()]
    assert [model.id for model in listed] == ["tiny"]
    assert listed[0].model_extra == {
        "context_length": 512,
        "context_len": 512,
        "max_tokens": 128,
        "quantization": "int8",
        "capabilities": ["completion", "tools", "thinking"],
    }
    assert (await client.models.retrieve("tiny")).object == "model"
    assert (await client.models.retrieve("gpt-4o")).id == "gpt-4o"
    with pytest.raises(openai.NotFoundError, match="there are: tiny"):
        await client.models.retrieve("meta/llama")
    async with bridge.http.get("/v1/models/tiny") as response:
        Model.model_validate(await response.json(), strict=True)


async def test_a_model_that_loads_is_waited_for_and_named_after_it_came(
    bridge: HttpBridge,
) -> None:
    engine = bridge.engine
    loaded, engine.models = engine.models, ()

    async def load() -> None:
        await engine.started.wait()
        engine.models = loaded

    bridge.play(0.02, *talk("a"))
    async with asyncio.TaskGroup() as group:
        group.create_task(load())
        completion = await bridge.openai.chat.completions.create(**ASK)
    assert completion.model == "tiny"
    engine.models = ()
    assert [model async for model in bridge.openai.models.list()] == []
    with pytest.raises(openai.NotFoundError):
        await bridge.openai.models.retrieve("tiny")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", {"messages": [user()]}),
        ("/completions", {"prompt": "Hello"}),
        ("/responses", {"input": "Hello"}),
    ],
)
async def test_an_alias_is_answered_by_the_model_and_a_strangers_name_is_not(
    bridge: HttpBridge, path: str, body: dict[str, Any]
) -> None:
    assert (await bridge.post(f"/v1{path}", body | {"model": "gpt-4o"}))["model"] == "tiny"
    assert bridge.engine.asked[0].model == "tiny"
    refusal = await bridge.refusal(f"/v1{path}", body | {"model": "llama"})
    assert refusal == (404, "model_not_found", "model")


async def test_azures_client_names_the_model_in_the_path(bridge: HttpBridge) -> None:
    async with openai.AsyncAzureOpenAI(
        azure_endpoint=bridge.server.url, api_key="none", api_version="2024-10-21", max_retries=0
    ) as client:
        completion = await client.chat.completions.create(**ASK)
        assert completion.choices[0].message.content == "Hi"
        stream = await client.chat.completions.create(**ASK, stream=True)
        assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "Hi"
        text = await client.completions.create(model="tiny", prompt="Hello")
        assert text.choices[0].text == "Hi"
        assert (await client.responses.create(model="tiny", input="Hello")).output_text == "Hi"
        assert [model.id async for model in client.models.list()] == ["tiny"]
        assert (await client.models.retrieve("tiny")).id == "tiny"
        with pytest.raises(openai.NotFoundError) as info:
            await client.chat.completions.create(**ASK | {"model": "llama"})
        assert info.value.code == "model_not_found"


async def test_a_deployment_in_the_path_wins_over_a_model_in_the_body(bridge: HttpBridge) -> None:
    path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    assert (await bridge.post(path, ASK | {"model": "llama"}))["model"] == "tiny"


@pytest.mark.parametrize("root", ["/v1", "/openai/v1"])
async def test_all_of_it_is_found_under_either_root(bridge: HttpBridge, root: str) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{bridge.server.url}{root}", api_key="none", max_retries=0
    ) as client:
        await client.chat.completions.create(**ASK)
        await client.completions.create(model="tiny", prompt="Hello")
        await client.responses.create(model="tiny", input="Hello")
        await client.models.retrieve("tiny")
        assert [model.id async for model in client.models.list()] == ["tiny"]
    assert len(bridge.engine.asked) == 3


def test_what_is_taken_and_replied_has_a_json_schema() -> None:
    for endpoint in ENDPOINTS:
        reply = TypeAdapter(endpoint.reply).json_schema(mode="serialization")
        assert reply["type"] == "object"
        if endpoint.body:
            assert issubclass(endpoint.body, BaseModel)
            assert "model" in endpoint.body.model_json_schema()["properties"]
            assert TypeAdapter(endpoint.chunk).json_schema()["properties"]
    paths = {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    assert len(paths) == len(ENDPOINTS) == 15


async def test_each_reply_is_what_its_schema_says(bridge: HttpBridge) -> None:
    bodies: dict[str, Any] = {
        "/v1/chat/completions": ASK,
        "/v1/completions": {"prompt": "Hello"},
        "/v1/responses": {"input": "Hello"},
    }
    for endpoint in ENDPOINTS:
        if body := bodies.get(endpoint.path):
            reply = await bridge.post(endpoint.path, body)
            TypeAdapter(endpoint.reply).validate_python(reply, strict=True, extra="forbid")
    async with bridge.http.get("/v1/models") as response:
        listed = next(endpoint for endpoint in ENDPOINTS if endpoint.path == "/v1/models")
        TypeAdapter(listed.reply).validate_python(await response.json(), extra="forbid")
