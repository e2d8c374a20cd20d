"""Clients as a microcontroller would write them: plain paho, MQTT 3.1.1, one address each.

Their sessions outlive a broken connection, and they publish and subscribe at QoS 1; they never
repeat a request of their own accord, so that what the fleet loses is lost.
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.clients import RawClient
from tests.fleet.ledger import Asked, Ledger

__all__ = ["Crowd", "open_crowd"]

RECONNECT_S = (1, 2)
RESPONSES = "llm/response/"


class Crowd:
    """The clients.

    Args:
        clients: connected.
        names: of the clients; their ids are below these.
    """

    def __init__(self, clients: Sequence[RawClient], names: Sequence[str]) -> None:
        self.ledger = Ledger()
        self._clients, self._names = clients, names
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._num_asked = 0
        for client in clients:
            client.paho.on_message = self._hear_in_thread

    def _hear_in_thread(self, _client: Any, _data: Any, message: Any) -> None:
        heard = message.topic.removeprefix(RESPONSES), bytes(message.payload)
        self._loop.call_soon_threadsafe(self._hear, *heard)

    def _hear(self, suffix: str, payload: bytes) -> None:
        asked = self.ledger.hear(suffix, payload)
        if asked and (waiting := self._waiting.pop(asked.id, None)):
            waiting.set_result(None)

    def ask(self, client: int, **fields: Any) -> tuple[Asked, asyncio.Future[None]]:
        """Publish a request; the future is done when its final message has come."""
        client %= len(self._clients)
        self._num_asked += 1
        request_id = f"{self._names[client]}/{self._num_asked}"
        asked = self.ledger.ask(request_id)
        done = self._waiting[request_id] = self._loop.create_future()
        body = {"prompt": f"Question {self._num_asked}", "events": True, **fields}
        asked.payload = json.dumps(body).encode()
        self._clients[client].publish(f"llm/request/{request_id}", asked.payload)
        return asked, done

    @property
    def num_waiting(self) -> int:
        """How many wait for their answer."""
        return len(self._waiting)

    async def keep_asking(self, count: int, at_once: int, give_up_s: float, **fields: Any) -> None:
        """Ask so many in all, with so many unanswered at a time.

        Args:
            count: of requests.
            at_once: askers, each of which waits for its answer before it asks again.
            give_up_s: how long it waits; the answer may still come after that.
            fields: of the requests.
        """
        await self._keep_asking(iter(range(count)), at_once, give_up_s, fields)

    async def keep_asking_until(
        self, is_over: asyncio.Event, at_once: int, give_up_s: float
    ) -> None:
        """Ask until it is over; see ``keep_asking``."""
        await self._keep_asking(iter(is_over.is_set, True), at_once, give_up_s, {})

    async def _keep_asking(
        self, left: Iterator[Any], at_once: int, give_up_s: float, fields: dict[str, Any]
    ) -> None:
        async def ask(asker: int) -> None:
            for _ in left:
                _, done = self.ask(asker, **fields)
                await asyncio.wait({done}, timeout=give_up_s)

        async with asyncio.TaskGroup() as tasks:
            for asker in range(at_once):
                tasks.create_task(ask(asker), name=f"asker.{asker}")

    async def settle(self, timeout_s: float) -> None:
        """Wait for the answers that are still to come."""
        if self._waiting:
            await asyncio.wait(set(self._waiting.values()), timeout=timeout_s)


@asynccontextmanager
async def open_crowd(ports: Sequence[int], count: int, *, qos: int = 1) -> AsyncGenerator[Crowd]:
    """Connect so many clients, in turn to each port, and listen for what they are told."""
    run_id = os.urandom(3).hex()
    async with AsyncExitStack() as stack:
        clients, names = [], []
        for number in range(count):
            name = f"c{run_id}{number}"
            client = RawClient(ports[number % len(ports)], "3.1.1", name, clean=False)
            client.paho.reconnect_delay_set(*RECONNECT_S)
            await stack.enter_async_context(client)
            topic = f"{RESPONSES}{name}/#"
            await client.subscribe(topic, qos=qos)
            # At every connect, as a server that was killed may have forgotten.
            client.paho.on_connect = lambda paho, *_, t=topic: paho.subscribe(t, qos)
            clients.append(client)
            names.append(name)
        yield Crowd(clients, names)
