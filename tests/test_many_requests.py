"""A crowd: each request gets exactly one final message, and nothing stays behind."""

import asyncio
import gc
import itertools
import json
import logging
import random
import secrets
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import structlog

from edge_llm.engine.queue import QueuedEngine
from edge_llm.service import Service
from edge_llm.settings import QueueSettings
from tests.brokers import Mosquitto
from tests.clients import RawClient, eventually
from tests.prompted_engine import PromptedEngine
from tests.stage import serving

NUM_CLIENTS = 20
NUM_REQUESTS = 1000
QUEUE_LIMIT = 100
BURST, PAUSE_S = 25, 0.03  # a crowd, and not one wall of requests
GROWTH_BYTES = 200_000  # of a second round; the first one fills caches

INVALID: tuple[bytes, ...] = (
    b"{",
    b"\xff",
    b"",
    b"{}",
    b'{"prompt": "x", "tpyo": 1}',
    b'{"prompt": "x", "retain_s": 5}',
)


@dataclass(frozen=True)
class Asked:
    """One request of the crowd."""

    client: int
    request_id: str
    payload: bytes
    qos: int
    is_valid: bool
    is_cancelled: bool


def make_crowd(chance: random.Random, num_requests: int) -> list[Asked]:
    crowd = []
    for number in range(num_requests):
        client = number % NUM_CLIENTS
        is_valid = chance.random() >= 0.05
        text = f"say number {number} of many"
        stream = chance.choice((False, "token", "sentence"))
        as_json = json.dumps({"prompt": text, "stream": stream}).encode()
        valid = chance.choice((as_json, text.encode()))
        crowd.append(
            Asked(
                client=client,
                request_id=f"c{client}/{number}",
                payload=valid if is_valid else chance.choice(INVALID),
                qos=chance.choice((0, 1)),
                is_valid=is_valid,
                is_cancelled=chance.random() < 0.05,
            )
        )
    return crowd


async def send(clients: Sequence[RawClient], crowd: Sequence[Asked]) -> None:
    for number, asked in enumerate(crowd):
        client = clients[asked.client]
        client.publish(f"llm/request/{asked.request_id}", asked.payload, asked.qos)
        if asked.is_cancelled:
            client.publish(f"llm/cancel/{asked.request_id}", b"", 0)
        if number % BURST == 0:
            await asyncio.sleep(PAUSE_S)


def count_finals(clients: Sequence[RawClient]) -> Counter[str]:
    """Final messages by request id: on its response topic, or on the error topic below that."""
    topics = (message.topic for client in clients for message in tuple(client.messages))
    finals = (topic for topic in topics if not topic.endswith("/delta"))
    return Counter(t.removeprefix("llm/response/").removesuffix("/error") for t in finals)


def check(clients: Sequence[RawClient], crowd: Sequence[Asked]) -> Counter[str]:
    """Compare what came with what was asked; return how the requests ended."""
    answers = {
        message.topic: bytes(message.payload)
        for client in clients
        for message in client.messages
        if not message.topic.endswith("/delta")
    }
    ends: Counter[str] = Counter()
    for asked in crowd:
        topic = f"llm/response/{asked.request_id}"
        error = answers.get(f"{topic}/error")
        answer = answers.get(topic)
        body = json.loads(answer) if answer and answer.startswith(b"{") else {}
        if error is not None:
            end = error.decode().partition(":")[0]
        else:
            end = body["error"]["code"] if "error" in body else body.get("finish_reason", "text")
        ends[end] += 1
        if asked.is_valid:
            assert end in {"stop", "text", "cancelled", "queue_full"}
            assert asked.is_cancelled or end != "cancelled"
        else:
            assert end.startswith(("invalid", "un")), asked
    return ends


async def play(
    clients: Sequence[RawClient], chance: random.Random, num_requests: int
) -> Counter[str]:
    for client in clients:
        client.messages.clear()
    crowd = make_crowd(chance, num_requests)
    await send(clients, crowd)
    wanted = {asked.request_id for asked in crowd}
    await eventually(
        lambda: len(count_finals(clients)) >= len(wanted),
        60,
        lambda: f"unanswered: {sorted(wanted - count_finals(clients).keys())[:20]}",
    )
    # Whatever might come twice would come before the answer to this.
    clients[0].publish("llm/request/c0/marker", "say marker")
    await eventually(lambda: count_finals(clients)["c0/marker"])
    finals = count_finals(clients)
    del finals["c0/marker"]
    assert finals == dict.fromkeys(wanted, 1)
    return check(clients, crowd)


def check_nothing_is_left(service: Service, queue: QueuedEngine, engine: PromptedEngine) -> None:
    assert not len(service._requests)
    assert not service._conversations._locks
    assert not service._cleared
    assert not service._mqtt._outgoing
    assert not service._mqtt._inbox._held
    assert not service._mqtt._inbox._handed_out
    assert service._mqtt._inbox._incoming.empty()
    assert not queue._turns._waiting
    assert not queue._turns._running
    assert engine.num_running == 0
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("request.")]


async def run_rounds(mosquitto: Mosquitto, num_rounds: int, num_requests: int) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    engine = PromptedEngine()
    queue = QueuedEngine(engine, QueueSettings(limit=QUEUE_LIMIT))
    settings = mosquitto.broker().settings()
    async with AsyncExitStack() as stack:
        service, _ = await stack.enter_async_context(serving(settings, queue, QUEUE_LIMIT))
        clients = [
            await stack.enter_async_context(
                RawClient(mosquitto.port, "5" if number % 2 else "3.1.1", f"crowd{number}")
            )
            for number in range(NUM_CLIENTS)
        ]
        for number, client in enumerate(clients):
            await client.subscribe(f"llm/response/c{number}/#")
        await eventually(lambda: service._mqtt.is_connected)
        sizes = []
        tracemalloc.start()
        try:
            for number in range(num_rounds):
                ends = await play(clients, random.Random(seed), num_requests)
                await eventually(lambda: not len(service._requests))
                await eventually(lambda: not service._mqtt._outgoing)
                check_nothing_is_left(service, queue, engine)
                for client in clients:
                    client.messages.clear()
                engine.asked.clear()
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
                print(f"round {number}: {dict(ends)}, {sizes[-1] - sizes[0]:+} bytes")
        finally:
            tracemalloc.stop()
    growth = [after - before for before, after in itertools.pairwise(sizes)]
    assert min(growth) < GROWTH_BYTES
    assert sizes[-1] - sizes[0] < GROWTH_BYTES + 20_000 * len(growth)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of lines of log are not what is looked at here."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


async def test_a_crowd_is_answered_one_by_one_and_leaves_nothing(mosquitto: Mosquitto) -> None:
    await run_rounds(mosquitto, num_rounds=2, num_requests=NUM_REQUESTS)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_crowd_that_does_not_go_home(mosquitto: Mosquitto) -> None:
    await run_rounds(mosquitto, num_rounds=20, num_requests=NUM_REQUESTS)
