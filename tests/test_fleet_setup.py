"""The streams and buckets of a fleet: made where they are missing, compared where they are not."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from nats.errors import Error
from nats.js.api import ConsumerConfig
from pydantic import ValidationError
from structlog.testing import capture_logs

from edge_llm.errors import ConfigurationError
from edge_llm.fleet.connection import connect_fleet
from edge_llm.fleet.consumers import ensure_consumer
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


async def test_each_setting_of_a_stream_that_was_changed_is_named(tmp_path: Path) -> None:
    with nats_servers(tmp_path) as [server]:
        settings = FleetSettings(servers=(server.url,))
        async with connect_fleet(settings, "test") as client:
            js = client.jetstream()
            await set_up(client, NAMES, settings)
            for name, changes, says in (
                ("LLM_WORK", {"max_age": 600.0}, "LLM_WORK has max_age 600"),
                ("LLM_REQUESTS", {"duplicate_window": 5.0}, "REQUESTS has duplicate_window 5"),
                ("KV_LLM_ANSWERS", {"max_msgs_per_subject": 5}, "max_msgs_per_subject 5, and"),
                ("KV_LLM_SESSIONS", {"subjects": ["$KV.x.>"]}, r"SESSIONS has subjects \["),
            ):
                usual = (await js.stream_info(name)).config
                await js.update_stream(usual.evolve(**changes))
                with pytest.raises(ConfigurationError, match=says):
                    await set_up(client, NAMES, settings)
                await js.update_stream(usual)
            await set_up(client, NAMES, settings)
            usual = (await js.stream_info("KV_LLM_ANSWERS")).config
            await js.update_stream(usual.evolve(max_msgs=20_000))  # somebody has reasons
            with capture_logs() as logs:
                await set_up(client, NAMES, settings)
            assert [(e["event"], e["stream"], e["max_msgs"]) for e in logs] == [
                ("fleet.other_bound", "KV_LLM_ANSWERS", 20_000)
            ]
            assert (await js.stream_info("KV_LLM_ANSWERS")).config.max_msgs == 20_000


async def test_a_consumer_that_was_changed_is_named_and_left(tmp_path: Path) -> None:
    wanted = ConsumerConfig(durable_name="c", filter_subject="t.x", ack_wait=10.0, max_deliver=-1)
    with nats_servers(tmp_path) as [server]:
        async with connect_fleet(FleetSettings(servers=(server.url,)), "test") as client:
            js = client.jetstream()
            await js.add_stream(name="S", subjects=["t.>"])
            with capture_logs() as logs:
                for _ in range(2):
                    assert (await ensure_consumer(js, "S", wanted)).config.ack_wait == 10.0
            assert not logs
            await js.add_consumer("S", wanted.evolve(ack_wait=3.0, max_deliver=2))
            with capture_logs() as logs:
                found = await ensure_consumer(js, "S", wanted)
            assert (found.config.ack_wait, found.config.max_deliver) == (3.0, 2)
            [said] = logs
            assert said["settings"] == [
                "ack_wait 3.0, and this node wants 10.0",
                "max_deliver 2, and this node wants -1",
            ]
            assert "nats consumer edit S c" in said["do"]


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
