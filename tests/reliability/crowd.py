"""Eight clients that ask all the time, and what they heard."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.clients import RawClient, eventually

__all__ = ["NUM_CLIENTS", "PROMPTS", "Asked", "Crowd", "Tally", "open_crowd"]

NUM_CLIENTS = 8
MAX_TOKENS = 24
GIVE_UP_S = 120.0
"""A client that has waited so long asks its next question; the answer may still come."""

PROMPTS = (
    "Hello!",
    "Who are you?",
    "What is 3 plus 4?",
    "What is 2 plus 5?",
    "Tell me a poem about the sea.",
    "What do you do all day?",
    "Where do you live?",
    "How are you?",
    "What is your name?",
    "Tell me about the moon.",
    "Are you alive?",
    "What can you do?",
)


@dataclass(slots=True)
class Asked:
    """One request, and its final messages with the time of each, on the monotonic clock."""

    prompt: str
    at: float
    finals: list[tuple[float, bytes]] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def answer(self) -> dict[str, Any]:
        """The first final message."""
        answer: dict[str, Any] = json.loads(self.finals[0][1])
        return answer

    @property
    def error(self) -> str | None:
        """The code of its error, if it failed."""
        error = self.answer.get("error")
        return error["code"] if error else None


@dataclass
class Tally:
    """What became of requests."""

    asked: int = 0
    texts: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    """Without any final message."""
    repeated: int = 0
    """With the same final message more than once, as QoS 1 allows."""
    contradicted: list[str] = field(default_factory=list)
    """With two that differ."""
    wrong: list[str] = field(default_factory=list)
    """With another text than before there were faults."""


class Crowd:
    """The clients.

    Args:
        clients: connected, one for each that asks.
        seed: of who asks what.
        run_id: keeps the ids of one run from those of another.
    """

    def __init__(self, clients: list[RawClient], seed: int, run_id: str = "c") -> None:
        self._clients = clients
        self._random = random.Random(seed)
        self._run_id = run_id
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._num_asked = 0
        self.asked: dict[str, Asked] = {}
        self.expected: dict[str, str] = {}
        """The text that each prompt had before there were faults."""
        for client in clients:
            client.paho.on_message = self._hear_in_thread

    def _hear_in_thread(self, _client: Any, _data: Any, message: Any) -> None:
        heard = (message.topic, bytes(message.payload), time.monotonic())
        self._loop.call_soon_threadsafe(self._hear, *heard)

    def _hear(self, topic: str, payload: bytes, at: float) -> None:
        asked = self.asked.get(topic.removeprefix("llm/response/"))
        if asked:
            asked.finals.append((at, payload))
            asked.done.set()

    def ask(self, client: int, prompt: str) -> Asked:
        """Publish a request with a new id, at QoS 1."""
        self._num_asked += 1
        request_id = f"{self._run_id}{client}/{self._num_asked}"
        asked = self.asked[request_id] = Asked(prompt, time.monotonic())
        body = {"prompt": prompt, "temperature": 0, "max_tokens": MAX_TOKENS}
        self._clients[client].publish(f"llm/request/{request_id}", json.dumps(body))
        return asked

    async def learn(self, timeout_s: float = 60.0) -> None:
        """Ask each prompt once, and take the answers for right."""
        for prompt in PROMPTS:
            asked = self.ask(0, prompt)
            async with asyncio.timeout(timeout_s):
                await asked.done.wait()
            if asked.error:
                raise RuntimeError(f"{prompt!r} was answered with {asked.answer}")
            self.expected[prompt] = asked.answer["text"]

    def start(self, think_s: float) -> None:
        """Have each client ask, and ask again when it has its answer."""
        self._tasks = [
            asyncio.create_task(self._keep_asking(number, think_s), name=f"client.{number}")
            for number in range(len(self._clients))
        ]

    async def _keep_asking(self, client: int, think_s: float) -> None:
        while True:
            asked = self.ask(client, self._random.choice(PROMPTS))
            try:  # Python 3.11's wait_for may swallow a cancel
                async with asyncio.timeout(GIVE_UP_S):
                    await asked.done.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(self._random.uniform(0, 2 * think_s))

    async def stop(self, timeout_s: float = 60.0) -> None:
        """Ask no more, and wait for the answers that are still to come."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(timeout_s):
                for asked in list(self.asked.values()):
                    await asked.done.wait()
        except TimeoutError:
            return
        await asyncio.sleep(0.2)  # for a second answer that should not be

    def first_text_after(self, at: float) -> float | None:
        """Return when the first of those that were asked after a time was answered with text."""
        times = [
            asked.finals[0][0]
            for asked in self.asked.values()
            if asked.at > at and asked.finals and not asked.error
        ]
        return min(times, default=None)

    def longest_silence_s(self, since: float, until: float) -> float:
        """Return the longest time between two answers with text, within a time."""
        times = sorted(
            at
            for asked in self.asked.values()
            if asked.finals and not asked.error and since <= (at := asked.finals[0][0]) <= until
        )
        return max(after - before for before, after in pairwise([since, *times, until]))

    def num_texts_after(self, at: float) -> int:
        """Return how many of those that were asked after a time have been answered with text."""
        return sum(
            bool(asked.finals) and not asked.error for asked in self.asked.values() if asked.at > at
        )

    def tally(self, since: float = 0.0, until: float = float("inf")) -> Tally:
        """Say what became of the requests of a time."""
        tally = Tally()
        for request_id, asked in self.asked.items():
            if not since <= asked.at < until:
                continue
            tally.asked += 1
            payloads = {payload for _, payload in asked.finals}
            if not payloads:
                tally.lost.append(request_id)
                continue
            tally.repeated += len(asked.finals) > 1
            if len(payloads) > 1:
                tally.contradicted.append(request_id)
            if error := asked.error:
                tally.errors[error] += 1
                continue
            tally.texts += 1
            if asked.answer["text"] != self.expected.get(asked.prompt, asked.answer["text"]):
                tally.wrong.append(request_id)
        return tally


@asynccontextmanager
async def open_crowd(port: int, seed: int) -> AsyncGenerator[Crowd]:
    """Connect the clients, with sessions that outlive a broken line."""
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(NUM_CLIENTS):
            protocol: Any = "5" if number % 2 else "3.1.1"
            client = RawClient(port, protocol, f"crowd{number}", clean=False)
            client.paho.reconnect_delay_set(1, 2)
            clients.append(await stack.enter_async_context(client))
        crowd = Crowd(clients, seed)
        for number, client in enumerate(clients):
            await client.subscribe(f"llm/response/c{number}/+")
        await eventually(lambda: all(client.paho.is_connected() for client in clients), 10)
        yield crowd
