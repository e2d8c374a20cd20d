"""Does a fleet wait as its simulation says? ``python -m tests.bench.bench_fleet_sim``.

A real nats-server and real nodes with the paced engine are asked by MQTT; ``fleet_sim`` is given
the same moments, and how long the nodes say that each answer took them: a paced node is some
percent slower than it is told, as a pause lasts a millisecond longer than asked for. Prints a table
and JSON: from the request to the whole answer, as it was and as it was simulated, and how far each
request was off.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.crowd import Card, Crowd, Seconds, simulate
from tests.clients import RawClient, eventually
from tests.nats import NatsServer, nats_servers
from tests.programs import running

QUANTILES = (0.5, 0.95, 0.99)
TIMEOUT_S = 60.0


@contextmanager
def paced_node(folder: Path, name: str, server: NatsServer, card: Card) -> Iterator[None]:
    """Run a node of the fleet that speaks at the speed of a card, until the context is left."""
    log = folder / f"{name}.log"
    settings = {
        "NODE": name,
        "MQTT__PORT": str(server.mqtt_port),
        "MQTT__PROTOCOL": "3.1.1",
        "FLEET__SERVERS": json.dumps([server.url]),
        "ENGINE__KIND": "paced",
        "ENGINE__PACED__TEXT": "word " * 300,
        "ENGINE__PACED__TTFT_S": str(card.ttft_s),
        "ENGINE__PACED__TOKENS_PER_S": str(card.tokens_per_s),
        "HTTP__ENABLED": "false",
        "STORE__DIRECTORY": str(folder / name),
    }
    environment = {**os.environ, **{f"EDGE_LLM_{key}": value for key, value in settings.items()}}
    serve = [sys.executable, "-m", "edge_llm", "serve"]
    with running(serve, log, lambda: "fleet.joined" in log.read_text(), environment):
        yield


async def ask_all(port: int, arrivals: Seconds, lengths: list[int]) -> tuple[Seconds, ...]:
    """Ask at these moments.

    Returns: in seconds from the first one when each was asked and answered, and how long the node
        says that it took from its beginning; each (requests,).
    """
    asked, answered, took = (np.zeros(len(arrivals)) for _ in range(3))
    async with RawClient(port) as client:

        def on_message(_client: Any, _data: Any, message: Any) -> None:
            number, timing = (
                int(message.topic.rpartition("/")[2]),
                json.loads(message.payload)["timing"],
            )
            took[number] = timing["total_s"] - timing["queue_s"]
            answered[number] = time.monotonic()

        client.paho.on_message = on_message
        await client.subscribe("llm/response/+/+")
        begin = time.monotonic()
        for number, (moment, tokens) in enumerate(zip(arrivals, lengths, strict=True)):
            await asyncio.sleep(max(0.0, begin + moment - time.monotonic()))
            asked[number] = time.monotonic()
            body = {"prompt": "Go on.", "max_tokens": tokens}
            client.publish(f"llm/request/bench/{number}", json.dumps(body))
        await eventually(lambda: bool(answered.all()), TIMEOUT_S)
    return asked - begin, answered - begin, took


def run(num_nodes: int, seconds: float, busy: float, seed: int) -> dict[str, Any]:
    """Ask a fleet, and simulate the same."""
    dice = np.random.default_rng(seed)
    card = Card("paced", tokens_per_s=60.0, ttft_s=0.1)
    crowd = Crowd(tokens=40, spread=0.5)
    per_s = num_nodes * busy / float(card.service_s(crowd.lengths(10_000, dice)).mean())
    arrivals = np.sort(dice.uniform(0, seconds, round(per_s * seconds)))
    lengths = crowd.lengths(len(arrivals), dice)
    with tempfile.TemporaryDirectory() as directory, ExitStack() as opened:
        folder = Path(directory)
        [server] = opened.enter_context(nats_servers(folder))
        for number in range(num_nodes):
            opened.enter_context(paced_node(folder, f"node{number}", server, card))
        asked, answered, took = asyncio.run(ask_all(server.mqtt_port, arrivals, lengths.tolist()))
    begins, _ = simulate(asked, np.tile(took, (num_nodes, 1)))
    measured, simulated = answered - asked, begins + took - asked
    off = measured - simulated
    return {
        "bench": "fleet_sim_against_a_fleet",
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "nodes": num_nodes,
        "requests": len(arrivals),
        "busy": round(float(took.sum() / num_nodes / seconds), 3),
        "seed": seed,
        "quantiles": QUANTILES,
        "measured_s": [round(float(value), 3) for value in np.quantile(measured, QUANTILES)],
        "simulated_s": [round(float(value), 3) for value in np.quantile(simulated, QUANTILES)],
        "off_s": [round(float(value), 3) for value in np.quantile(off, (0.05, 0.5, 0.95))],
    }


def main() -> None:
    """Print the table, then the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of asking")
    parser.add_argument("--busy", type=float, default=0.8, help="share of the nodes' time")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    report = run(args.nodes, args.seconds, args.busy, args.seed)
    print(f"{report['requests']} requests, {args.nodes} paced nodes, {report['busy']:.0%} busy")
    print(f"{'whole answer, s':20} {'median':>8} {'95 %':>8} {'99 %':>8}")
    for name in ("measured", "simulated"):
        print(f"{name:20} {' '.join(f'{value:8.3f}' for value in report[f'{name}_s'])}")
    low, median, high = report["off_s"]
    print(
        f"a request took {median:+.3f} s more than simulated (5 to 95 %: {low:+.3f}..{high:+.3f})"
    )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
