"""What a fleet is worth: ``python -m tests.bench.bench_fleet [WHAT ...] [--seed N]``.

Real servers, real nodes, plain MQTT 3.1.1 clients, all on loopback; answers are rehearsed ones, so
that many nodes fit on a small machine. WHAT is any of these, all of them if not given:

- ``takeover``: nodes are killed, servers too, and lines go dead, while 2,000 requests come in;
- ``throughput``: eight nodes against one;
- ``shares``: nodes of speeds 1:2:4;
- ``latency``: a node on mosquitto and the same one in a fleet;
- ``upgrade``: four nodes are restarted in turn under load;
- ``sessions``: a conversation of ten turns with the built-in model, whose node is killed then, and
  how long the next turn waits for it.

Each prints a table and a line of JSON.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from edge_llm.fleet import FleetNames
from edge_llm.fleet.door import OPENING_S
from edge_llm.store import make_key
from tests.brokers import Mosquitto
from tests.clients import RawClient, eventually
from tests.fleet.crowd import Crowd, open_crowd
from tests.fleet.faults import Faults, Plan
from tests.fleet.ledger import Ledger
from tests.fleet.node import FleetNode, Pace
from tests.fleet.world import World, open_world

Figures = dict[str, Any]

LEASE_S = 2.0
SETTLE_S = 60.0
PAUSE_S = 0.5  # between two turns of a conversation: nobody speaks sooner
BARS = {
    "lost": 0,
    "contradicted": 0,
    "speedup": 7.6,
    "share_error": 0.1,
    "takeover_s": LEASE_S + 1.0,
    "added_ms": 5.0,
    "reused": 0.9,
}


async def takeover(folder: Path, seed: int, count: int = 2000) -> Figures:
    """Ask under faults."""
    plan = Plan()
    paces: list[Pace | None] = [Pace(0.1, 25.0, 10)] * 7
    async with open_world(
        folder, [*paces, None], num_servers=3, num_clients=6, lease_s=LEASE_S, num_lined=2
    ) as world:
        crowd = world.crowd
        faults = Faults(world, plan, seed, lambda: len(crowd.ledger.asked) / count)
        dealing = asyncio.create_task(faults.run())
        begin = time.monotonic()
        await crowd.keep_asking(count, 6, SETTLE_S, max_tokens=10)
        asked_s = time.monotonic() - begin
        await dealing
        await crowd.settle(SETTLE_S)
        twice = await _sent_twice(world)
    ledger = crowd.ledger
    blows = faults.times("kill", "partition")
    troubled = [(b.at, b.until) for b in faults.blows if b.what == "server kill"]
    figures = ledger.summary(blows)
    figures |= {
        "seconds": round(asked_s, 1),
        "faults": {what: len(faults.times(what)) for what in ("kill", "server kill", "partition")},
        "takeover_bar_s": BARS["takeover_s"],
        "takeovers_over_bar": [
            {"s": round(t, 2), "server_away": _overlaps(at, at + t, troubled)}
            for at, t in ledger.takeovers_at(blows)
            if t > BARS["takeover_s"]
        ],
        # A client whose server died before it confirmed a request has sent it again, and
        # nats-server does not pass on that it did: these are two requests to the fleet.
        "sent_twice": len(twice),
        "contradicted_and_sent_once": sorted(set(ledger.contradicted) - twice),
        "lost_ids": ledger.lost,
        "contradicted_ids": ledger.contradicted,
        "slowest": [
            {
                "s": round(a.took_s, 2),
                "server_away": _overlaps(a.at, a.ended_at, troubled),
            }
            for a in sorted(ledger.answered, key=lambda a: -a.took_s)[:5]
        ],
    }
    return figures


async def _sent_twice(world: World) -> set[str]:
    """Return the ids of which the fleet has answered two requests, with the same words in them."""
    from nats.aio.client import Client

    client, bucket = Client(), FleetNames("llm").answers
    await client.connect(servers=[server.url for server in world.servers])
    info = await client.jetstream().stream_info(f"KV_{bucket}", subjects_filter=">")
    await client.close()
    names = (subject.removeprefix(f"$KV.{bucket}.") for subject in info.state.subjects or {})
    answered = Counter(name.partition(".")[0] for name in names)
    return {
        asked.id
        for asked in world.crowd.ledger.asked.values()
        if answered[make_key(f"llm/request/{asked.id}", asked.payload).hex()] > 1
    }


def _overlaps(begin: float, end: float, spans: list[tuple[float, float]]) -> bool:
    return any(start < end and begin < stop for start, stop in spans)


async def throughput(folder: Path, seed: int) -> Figures:
    """Compare eight nodes with one, each with twice as many askers as nodes."""
    rates = {}
    for num_nodes in (1, 8):
        pace = Pace(0.5, 25.0, 14)
        below = folder / str(num_nodes)
        below.mkdir()
        async with open_world(below, [pace] * num_nodes, num_clients=4) as world:
            rates[num_nodes] = await _rate(world, 24 * num_nodes, 2 * num_nodes)
    speedup = rates[8] / rates[1]
    return {
        "one_per_s": round(rates[1], 3),
        "eight_per_s": round(rates[8], 3),
        "ideal_per_s": round(1 / pace.answer_s, 3),
        "speedup": round(speedup, 2),
        "bar": BARS["speedup"],
    }


async def _rate(world: World, count: int, at_once: int) -> float:
    """Return answers per second, the beginning and the end with idle nodes included."""
    begin = time.monotonic()
    await world.crowd.keep_asking(count, at_once, SETTLE_S)
    return len(world.crowd.ledger.answered) / (time.monotonic() - begin)


async def shares(folder: Path, seed: int) -> Figures:
    """Let nodes of speeds 1:2:4 share a load."""
    speeds, count = (1, 2, 4), 280
    paces = [Pace(0.4 / speed, 25.0 * speed, 16) for speed in speeds]
    async with open_world(folder, paces, num_clients=4) as world:
        await world.crowd.keep_asking(count, 8, SETTLE_S)
        ledger = world.crowd.ledger
    rows = []
    for node, speed in zip(world.nodes, speeds, strict=True):
        share, fair = ledger.by_node[node.name] / count, speed / sum(speeds)
        rows.append({"speed": speed, "share": round(share, 4), "off": round(share / fair - 1, 4)})
    worst = max(abs(row["off"]) for row in rows)
    return {"rows": rows, "worst_off": worst, "bar": BARS["share_error"]}


async def latency(folder: Path, seed: int, count: int = 300) -> Figures:
    """Compare a node at mosquitto with the same one in a fleet, one request at a time."""
    pace = Pace(0.0, 2000.0, 6)
    with Mosquitto(folder) as mosquitto:
        node = FleetNode(folder, "alone", [mosquitto.port], (), pace)
        plain = await _times_ms(node, mosquitto.port, count)
    figures: Figures = {"plain_median_ms": round(statistics.median(plain), 2)}
    for num_servers in (1, 3):
        below = folder / str(num_servers)
        below.mkdir()
        async with open_world(below, [pace], num_servers=num_servers, num_clients=1) as world:
            await asyncio.sleep(2 * OPENING_S)  # once in a fleet's life requests are claimed, too
            fleet = await _ask_in_turn(world.crowd, count)
        for name, value in (
            ("median", statistics.median(fleet)),
            ("p99", statistics.quantiles(fleet, n=100)[98]),
            ("added", statistics.median(fleet) - statistics.median(plain)),
        ):
            figures[f"servers_{num_servers}_{name}_ms"] = round(value, 2)
    return figures | {"bar_ms": BARS["added_ms"]}


async def _times_ms(node: FleetNode, port: int, count: int) -> list[float]:
    async with AsyncExitStack() as stack:
        stack.callback(node.stop)
        node.start()
        await node.ready()
        crowd = await stack.enter_async_context(open_crowd([port], 1))
        return await _ask_in_turn(crowd, count)


async def _ask_in_turn(crowd: Crowd, count: int) -> list[float]:
    await crowd.keep_asking(20, 1, SETTLE_S, events=False)
    crowd.ledger = Ledger()
    await crowd.keep_asking(count, 1, SETTLE_S, events=False)
    return [asked.took_s * 1000 for asked in crowd.ledger.answered]


async def upgrade(folder: Path, seed: int) -> Figures:
    """Restart four nodes in turn, each when the one before is back, under load."""
    restarts = []
    pace = Pace(0.2, 20.0, 10)
    async with open_world(folder, [pace] * 4, num_servers=3, num_clients=4) as world:
        is_over = asyncio.Event()
        asking = asyncio.create_task(world.crowd.keep_asking_until(is_over, 4, SETTLE_S))
        await asyncio.sleep(3)
        for node in world.nodes:
            begin = time.monotonic()
            node.terminate()
            await eventually(lambda n=node: not n.is_running, 30)  # type: ignore[misc]
            node.start()
            await node.ready()
            restarts.append(time.monotonic() - begin)
        await asyncio.sleep(3)
        is_over.set()
        await asking
        await world.crowd.settle(SETTLE_S)
    figures = world.crowd.ledger.summary()
    for name in ("takeovers", "takeover_median_s", "takeover_longest_s"):
        del figures[name]
    return figures | {
        "restarts_s": [round(restart, 2) for restart in restarts],
        "bar_longest_s": round(max(restarts), 2),
    }


async def sessions(folder: Path, seed: int) -> Figures:
    """Have a conversation; how much of a prompt is at hand in its tenth turn, and who goes on."""
    async with open_world(folder, [None, None], num_servers=3, num_clients=1) as world:
        port = world.servers[0].mqtt_port
        async with RawClient(port) as client:
            await client.subscribe("llm/response/#")
            turns = [await _turn(client, number) for number in range(1, 11)]
            tenth = turns[-1]
            holder = next(node for node in world.nodes if node.name == tenth["node"])
            holder.kill()
            begin = time.monotonic()
            after = await _turn(client, 11)
            waited_s = time.monotonic() - begin - PAUSE_S
    usage = tenth["usage"]
    return {
        "nodes": [turn["node"] for turn in turns],
        "prompt_tokens": [turn["usage"]["prompt_tokens"] for turn in (*turns, after)],
        "tenth_reused": round(usage["cached_tokens"] / usage["prompt_tokens"], 3),
        "bar_reused": BARS["reused"],
        "after_its_death_by": after["node"],
        "went_on": after["usage"]["prompt_tokens"] > usage["prompt_tokens"],
        "waited_s": round(waited_s, 2),
    }


async def _turn(client: RawClient, number: int) -> dict[str, Any]:
    """Say something in the conversation, and return the answer."""
    asked = {"prompt": f"What is {number} plus 4?", "session": "ada", "max_tokens": 12, "seed": 1}
    client.publish(f"llm/request/turn{number}", json.dumps(asked))
    [payload] = await client.wait_for(f"llm/response/turn{number}", timeout_s=SETTLE_S)
    answer: dict[str, Any] = json.loads(payload)
    await asyncio.sleep(PAUSE_S)
    return answer


PARTS: dict[str, Callable[[Path, int], Coroutine[Any, Any, Figures]]] = {
    part.__name__: part for part in (takeover, throughput, shares, latency, upgrade, sessions)
}


def main() -> None:
    """Run what is asked for, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--logs", type=Path, help="leave everybody's files in this directory")
    args = parser.parse_args()
    for name in args.what:
        with tempfile.TemporaryDirectory() as temporary:
            folder = (args.logs or Path(temporary)) / name
            folder.mkdir(parents=True)
            figures = asyncio.run(PARTS[name](folder, args.seed))
        for key, value in figures.items():
            print(f"{name:10} {key:22} {value}")
        said = {"bench": f"fleet {name}", "seed": args.seed, "cores": os.cpu_count()}
        print(json.dumps(said | {"load": round(os.getloadavg()[0], 2)} | figures), flush=True)


if __name__ == "__main__":
    main()
