"""One seed, one text: over MQTT, and in OpenAI's, Azure's and Ollama's dialects."""

import json
from contextlib import AsyncExitStack

import ollama
import openai

from edge_llm.client import RemoteEngine
from edge_llm.node import open_node
from edge_llm.protocol import ChatRequest, Delta, JsonObjectFormat
from edge_llm.settings import HttpSettings, MqttSettings, Settings
from tests.brokers import Mosquitto

PROMPT = "Tell me a poem about the sea."
SAID = {"role": "user", "content": PROMPT}


async def test_each_way_of_asking_gives_the_same_text(mosquitto: Mosquitto) -> None:
    mqtt = MqttSettings(port=mosquitto.port)
    settings = Settings(node="pi5", mqtt=mqtt, http=HttpSettings(port=0, model_aliases=("gpt-*",)))
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(open_node(settings))
        remote = await stack.enter_async_context(RemoteEngine(mqtt))
        assert node.http
        url = node.http.url
        openais = await stack.enter_async_context(
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-")
        )
        azures = await stack.enter_async_context(
            openai.AsyncAzureOpenAI(azure_endpoint=url, api_key="-", api_version="2024-10-21")
        )
        ollamas = await stack.enter_async_context(ollama.AsyncClient(url))

        async def over_mqtt(seed: int) -> str:
            request = ChatRequest(prompt=PROMPT, seed=seed, temperature=1.5, max_tokens=40)
            return "".join([e.text async for e in remote.generate(request) if isinstance(e, Delta)])

        async def over_openai(client: openai.AsyncOpenAI, model: str, seed: int) -> str | None:
            completion = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": PROMPT}],
                seed=seed,
                temperature=1.5,
                max_tokens=40,
            )
            return completion.choices[0].message.content

        async def over_ollama(seed: int) -> str:
            options = {"seed": seed, "temperature": 1.5, "num_predict": 40}
            reply = await ollamas.chat("edge-llm-tiny", [SAID], options=options)
            return str(reply.message.content)

        texts = set()
        for seed in (1, 2, 2**63):
            said = await over_mqtt(seed)
            assert said
            assert await over_openai(openais, "edge-llm-tiny", seed) == said
            assert await over_openai(azures, "gpt-4o", seed) == said
            assert await over_ollama(seed) == said
            texts.add(said)
        assert len(texts) > 1

        request = ChatRequest(
            prompt=PROMPT,
            seed=5,
            temperature=1.5,
            response_format=JsonObjectFormat(type="json_object"),
        )
        said = "".join([e.text async for e in remote.generate(request) if isinstance(e, Delta)])
        assert isinstance(json.loads(said), dict)
        options = {"seed": 5, "temperature": 1.5}
        reply = await ollamas.chat("edge-llm-tiny", [SAID], options=options, format="json")
        assert reply.message.content == said
