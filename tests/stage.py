"""A node on a stage: the service under test, and a client that hears all that it says."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_llm.engine import Engine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.protocol import NodeHealth, NodeInfo
from edge_llm.service import Rules, Service
from edge_llm.settings import MqttSettings, QueueSettings, SessionSettings, StoreSettings
from edge_llm.store import open_store
from tests.brokers import Broker, Proxy
from tests.clients import RawClient, eventually
from tests.prompted_engine import PromptedEngine

Protocol = Literal["5", "3.1.1"]
STATUS, INFO, ERROR = (f"llm/node/stage/{name}" for name in ("status", "info", "error"))
FINAL = "llm/response/a"


@dataclass
class Stage:
    """A node that serves, and a client that hears all that it says."""

    engine: PromptedEngine
    queue: QueuedEngine
    service: Service
    task: asyncio.Task[None]
    client: RawClient
    num_markers: int = 0

    def ask(self, request: str | bytes | dict[str, Any], request_id: str = "a", **how: Any) -> None:
        payload = json.dumps(request) if isinstance(request, dict) else request
        self.client.publish(f"llm/request/{request_id}", payload, **how)

    def cancel(self, request_id: str = "a") -> None:
        self.client.publish(f"llm/cancel/{request_id}", b"", 0)

    async def final(self, request_id: str = "a") -> dict[str, Any]:
        """Wait for the final message, and make sure that it stays the only one."""
        topic = f"llm/response/{request_id}"
        [payload] = await self.client.wait_for(topic)
        body: dict[str, Any] = json.loads(payload)
        return body

    async def text(self, request_id: str = "a") -> str:
        [payload] = await self.client.wait_for(f"llm/response/{request_id}")
        return payload.decode()

    async def error(self, request_id: str = "a") -> str:
        [payload] = await self.client.wait_for(f"llm/response/{request_id}/error")
        return payload.decode()

    async def code(self, request: str | bytes | dict[str, Any], request_id: str = "a") -> str:
        """Ask, and return the code of the error."""
        self.ask(request, request_id)
        body = await self.final(request_id)
        assert body["text"] == ""
        return str(body["error"]["code"])

    async def settle(self) -> None:
        """Wait until all that was asked until now has been answered, and has arrived."""
        self.engine.release.set()
        self.num_markers += 1
        self.ask("say marker", "marker")
        await self.client.wait_for("llm/response/marker", self.num_markers)
        await eventually(lambda: not len(self.service._requests))

    def finals(self, request_id: str = "a") -> list[bytes]:
        topic = f"llm/response/{request_id}"
        return self.client.payloads(topic) + self.client.payloads(f"{topic}/error")


@asynccontextmanager
async def serving(
    settings: MqttSettings,
    engine: Engine,
    limit: int = 16,
    *,
    rules: Rules | None = None,
    store: Path | None = None,
    sessions: SessionSettings | None = None,
    on_command: Callable[[str], None] = lambda _: None,
    report: Callable[[], NodeHealth] | None = None,
) -> AsyncGenerator[tuple[Service, asyncio.Task[None]]]:
    info = NodeInfo(
        node="stage", version="1", boot_id="b1", models=(), engine="worker", queue_limit=limit
    )
    with open_store(store, StoreSettings(), sessions or SessionSettings()) as kept:
        service = Service(
            engine,
            settings,
            info,
            kept,
            rules=rules or Rules(),
            on_command=on_command,
            report=report,
        )
        task = asyncio.create_task(service.run())
        try:
            yield service, task
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=5)
            assert task.cancelled()


@asynccontextmanager
async def open_stage(
    broker: Broker,
    *,
    limit: int = 16,
    settings: MqttSettings | None = None,
    engine: PromptedEngine | None = None,
    **options: Any,
) -> AsyncGenerator[Stage]:
    engine = engine or PromptedEngine()
    queue = QueuedEngine(engine, QueueSettings(limit=limit))
    async with broker.client() as client:
        await client.subscribe("llm/response/#", "llm/node/#")
        async with serving(settings or broker.settings(), queue, limit, **options) as (
            service,
            task,
        ):
            await eventually(lambda: b"online" in client.payloads(STATUS))
            yield Stage(engine, queue, service, task, client)


def open_proxied(broker: Broker, proxy: Proxy) -> Any:
    return open_stage(broker, settings=broker.settings(port=proxy.port))


async def retained(broker: Broker, topic: str) -> list[bytes]:
    """What the broker has on a topic for those who come."""
    async with broker.client() as client:
        client.publish("end/marker", b"x", retain=True)
        await client.subscribe(topic)
        await client.subscribe("end/marker")
        await client.wait_for("end/marker")
        return client.payloads(topic)
