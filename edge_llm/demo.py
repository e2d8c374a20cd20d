"""``edge-llm demo``: everything in one process and nothing to install, to see it talk at once."""

import asyncio
import sys
import time
from contextlib import aclosing

from edge_llm import __version__
from edge_llm.broker import find_free_port, open_broker
from edge_llm.client import RemoteEngine
from edge_llm.node import open_node
from edge_llm.protocol import ChatRequest, Delta, Done
from edge_llm.settings import Settings

__all__ = ["run_demo"]

QUESTION = "Hello! Who are you, and what can you do?"

# With -R, as amqtt sends whoever connects the retained messages of others' subscriptions.
HOW_TO_TALK = """
Talk to it from another terminal; {mqtt_host}:{mqtt_port} is MQTT, {url} is HTTP:

  mosquitto_sub -R -h {mqtt_host} -p {mqtt_port} -t 'llm/response/button7' -C 1 &
  mosquitto_pub -h {mqtt_host} -p {mqtt_port} -t 'llm/request/button7' \\
    -m 'Tell me a poem about the sea.'

  curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"messages": [{{"role": "user", "content": "What is 3 plus 4?"}}]}}'

  edge-llm ask --port {mqtt_port} 'Tell me my fortune.'

  python -c 'import openai; print(openai.OpenAI(base_url="{url}/v1", api_key="none") \
.chat.completions.create(model="{model}", messages=[\
{{"role": "user", "content": "How are you?"}}]) \
.choices[0].message.content)'

Ctrl-C stops it."""


async def run_demo(settings: Settings) -> None:
    """Start a broker and a node, ask one question over MQTT, and serve until cancelled."""
    begin = time.monotonic()
    host = "127.0.0.1"
    async with open_broker(host, settings.mqtt.port) as port:
        mqtt = settings.mqtt.model_copy(
            update={
                "host": host,
                "port": port,
                # What amqtt can do; see edge_llm.broker.
                "protocol": "3.1.1",
                "ack": "receipt",
                "enabled": True,
            }
        )
        http = settings.http.model_copy(
            update={"port": find_free_port(host, settings.http.port), "enabled": True}
        )
        _say(f"edge-llm {__version__}: broker on {host}:{port}, HTTP on port {http.port}")
        _say("  requests are acknowledged on receipt, as this broker forgets them after 5 s")
        if port != settings.mqtt.port:
            _say(f"  (port {settings.mqtt.port} is taken, so MQTT is on {port})")
        if http.port != settings.http.port:
            _say(f"  (port {settings.http.port} is taken, so HTTP is on {http.port})")
        demo = settings.model_copy(update={"mqtt": mqtt, "http": http})
        async with open_node(demo) as node:
            models = await node.engine.ready()
            _say(f"  model {models[0].id}, context {models[0].context_len} tokens\n")
            async with RemoteEngine(mqtt) as remote:
                await _ask(remote, begin)
            url = node.http.url if node.http else ""
            _say(HOW_TO_TALK.format(mqtt_host=host, mqtt_port=port, url=url, model=models[0].id))
            await asyncio.Event().wait()


async def _ask(remote: RemoteEngine, begin: float) -> None:
    _say(f"Asking over MQTT: {QUESTION}")
    async with aclosing(remote.generate(ChatRequest(prompt=QUESTION, seed=1))) as events:
        async for event in events:
            if isinstance(event, Delta):
                sys.stdout.write(event.text)
                sys.stdout.flush()
            elif isinstance(event, Done):
                speed = event.timing.tokens_per_s
                _say(
                    f"\n  ({event.usage.completion_tokens} tokens"
                    + (f", {speed:.0f} tokens/s" if speed else "")
                    + f"; {time.monotonic() - begin:.1f} s since the start)"
                )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
