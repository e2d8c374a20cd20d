"""The streams and buckets of a fleet: made where they are missing, compared where they are not."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from nats.errors import Error
from pydantic import ValidationError

from edge_llm.errors import ConfigurationError
from edge_llm.fleet.connection import connect_fleet
from edge_llm.fleet.names import FleetNames, Ticket
from edge_llm.fleet.setup import set_up
from edge_llm.settings import FleetSettings, Settings
from tests.nats import nats_servers

NAMES = FleetNames("llm")
STREAMS = (
    "LLM_REQUESTS", "LLM_WORK", "KV_LLM_ANSWERS", "KV_LLM_SESSIONS", "KV_LLM_LOCKS",
)  # fmt: skip


async def test_what_is_missing_is_made_once_and_what_differs_is_named(tmp_path: Path) -> None:
    with nats_servers(tmp_path) as [server]:
        settings = FleetSettings(servers=(server.url,))
        async with connect_fleet(settings, "test") as client:
            js = client.jetstream()
            for _ in range(2):
                await set_up(client, NAMES, settings)
                for name in STREAMS:
                    config = (await js.stream_info(name)).config
                    assert config.num_replicas == 1
            other = FleetSettings(servers=(server.url,), lease_s=30, answers_age_s=600)
            with pytest.raises(ConfigurationError, match=r"KV_LLM_ANSWERS has max_age 3600.*30"):
                await set_up(client, NAMES, other)
            assert (await js.stream_info("KV_LLM_LOCKS")).config.max_age == 10.0  # as it was


@pytest.mark.soak
async def test_three_servers_keep_three_copies_also_while_one_is_away(tmp_path: Path) -> None:
    with nats_servers(tmp_path, 3) as servers:
        settings = FleetSettings(servers=tuple(server.url for server in servers))
        async with connect_fleet(settings, "test") as client:
            js = client.jetstream()
            await set_up_in_time(client, settings)
            for name in STREAMS:
                assert (await js.stream_info(name)).config.num_replicas == 3
        servers[0].kill()
        less = FleetSettings(servers=(servers[1].url,))
        async with connect_fleet(less, "test") as client:
            await set_up_in_time(client, less)


async def set_up_in_time(client: Any, settings: FleetSettings) -> None:
    """Set up as a node does: servers that lost one of them, or just came up, elect a leader."""
    async with asyncio.timeout(20):
        while True:
            try:
                await set_up(client, NAMES, settings)
            except (Error, TimeoutError):
                await asyncio.sleep(0.1)
            else:
                return


def test_names_are_what_nats_takes() -> None:
    names = FleetNames("museum/hall.2")
    assert names.requests == "MUSEUM_HALL_2_REQUESTS"
    ticket = Ticket(names.of_model("Qwen/Qwen2.5-0.5B"), 7)
    subject = FleetNames("llm").subject(ticket)
    assert FleetNames("llm").ticket(subject) == ticket
    assert " " not in subject
    assert subject.count(".") == 3
    assert FleetNames("llm").ticket("llm.work.x.y") is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"node": "hall.local"}, "node: NATS takes no '.'"),
        ({"mqtt": {"prefix": "art.llm"}}, "mqtt.prefix: NATS takes no '.'"),
        ({"mqtt": {"enabled": False}}, "it needs"),
        ({"mqtt": {"ack": "receipt"}}, "could be lost"),
        ({"fleet": {"servers": ["http://10.0.0.5:4222"]}}, "nats://"),
        ({"fleet": {"servers": ["nats://me:secret@10.0.0.5:4222"]}}, "without a password"),
    ],
)
def test_settings_that_can_not_be_are_refused(fields: dict[str, Any], says: str) -> None:
    fleet = {"servers": ["nats://10.0.0.5:4222"]}
    with pytest.raises(ValidationError, match=says):
        Settings.model_validate({"node": "hall", "fleet": fleet, **fields})
