"""A node in a fleet whose card gets too hot, on the virtual card: others do what it can't."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_llm.device import monitor
from edge_llm.node import open_node
from tests.clients import RawClient, eventually
from tests.fleet_stage import fleet_node, fleet_settings
from tests.nats import NatsServer, nats_servers
from tests.test_fleet_http import READY
from tests.virtual_ax650.card import Card
from tests.virtual_ax650.shared import Shared
from tests.virtual_ax650.smi import write_smi

COOL, CRITICAL = 45_000, 82_000  # in thousandths of a degree
SLOW = "axclrtEngineExecute:1+:hang=0.005\n"


@pytest.fixture
def shared(tmp_path: Path, card: Card) -> Iterator[Shared]:
    write_smi(tmp_path, card)
    shared = Shared(tmp_path / "shared")
    yield shared
    shared.close()


async def test_what_a_hot_node_holds_goes_to_another_and_it_takes_no_more_until_it_is_cool(
    tmp_path: Path, card_model_dir: Path, card: Card, shared: Shared, monkeypatch: Any
) -> None:
    monkeypatch.setattr(monitor, "FAST_INTERVAL_S", 0.1)
    with nats_servers(tmp_path) as [server]:
        settings = hot_settings(server, tmp_path, card_model_dir, card)
        async with RawClient(server.mqtt_port) as client, open_node(settings) as hot:
            await client.subscribe("llm/response/#", "llm/node/hot/health")
            await hot.engine.ready()
            (tmp_path / "control").write_text(SLOW)
            ask(client, "long", stream="token", max_tokens=1000)
            await client.wait_for("llm/response/long/delta")
            async with fleet_node(server, "cool", **READY):
                shared["millidegrees"] = CRITICAL
                assert (await answer(client, "long"))["node"] == "cool"
                await eventually(lambda: last_health(client)["heat"] == "critical")
                for number in range(3):
                    ask(client, f"next-{number}")
                    assert (await answer(client, f"next-{number}"))["node"] == "cool"
            (tmp_path / "control").write_text("")
            ask(client, "later", max_tokens=5)
            shared["millidegrees"] = COOL
            assert (await answer(client, "later"))["node"] == "hot"


def hot_settings(server: NatsServer, folder: Path, model: Path, card: Card) -> Any:
    worker = {"model": model, "axcl_library": card.path, "self_test": False, "stop_timeout_s": 1}
    settings = fleet_settings(
        server,
        "hot",
        engine={"kind": "worker", "worker": worker},
        device={"axcl_smi": folder / "axcl-smi"},
        http={"enabled": False},
    )
    quick = settings.device.model_copy(update={"interval_s": 0.1, "timeout_s": 2.0})
    return settings.model_copy(update={"device": quick})


def ask(client: RawClient, request_id: str, **fields: Any) -> None:
    request = {"prompt": "Tell me a poem about the sea.", **fields}
    client.publish(f"llm/request/{request_id}", json.dumps(request), 1)


async def answer(client: RawClient, request_id: str) -> Any:
    topic = f"llm/response/{request_id}"
    await eventually(lambda: client.payloads(topic), 20)
    [final] = client.payloads(topic)
    return json.loads(final)


def last_health(client: RawClient) -> Any:
    return json.loads(client.payloads("llm/node/hot/health")[-1])
