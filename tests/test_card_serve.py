"""`edge-llm serve` on the virtual card, against a real broker, as a maker runs it."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.brokers import Mosquitto
from tests.clients import RawClient, eventually
from tests.programs import require_program
from tests.test_cli import EDGE_LLM
from tests.virtual_ax650.card import Card

pytestmark = pytest.mark.timeout(120)

SLOW_LOAD = "axclrtEngineLoadFromFile:1+:hang=0.3"
SLOWER_LOAD = "axclrtEngineLoadFromFile:1+:hang=1"  # all 7 take longer than a stop may
SLOW_RUN = "virtual_axcl_task:1+:hang=0.02"
STOP_S = 5.0


@asynccontextmanager
async def serve(model: Path, card: Card, broker: Mosquitto, folder: Path) -> AsyncIterator[None]:
    """Start the service; it is stopped with SIGTERM, and must end by itself."""
    config = folder / "edge-llm.toml"
    config.write_text(
        f'node = "stage"\n[mqtt]\nport = {broker.port}\nstop_timeout_s = 0.2\n'
        "[http]\nenabled = false\n"
        "[engine]\ntemperature = 0\n"
        f'[engine.worker]\nmodel = "{model}"\naxcl_library = "{card.path}"\n'
    )
    with (folder / "serve.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            EDGE_LLM,
            *("serve", "--config", str(config)),
            stdout=log,
            stderr=log,
            env={**os.environ, **card.environment},
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            pytest.fail(f"it did not stop: {(folder / 'serve.log').read_text()}")
        assert code == 0, (folder / "serve.log").read_text()


def left_on_card(folder: Path) -> dict[str, int]:
    lines = (folder / "stats").read_text().splitlines()
    counters = {name: int(count) for name, count in (line.split() for line in lines)}
    return {name: counters[name] for name in ("models", "live_allocations", "leaked_at_reset")}


NOTHING = {"models": 0, "live_allocations": 0, "leaked_at_reset": 0}
ACTIVITY, INFO = "llm/node/stage/activity", "llm/node/stage/info"


async def test_a_button_is_answered_by_the_card(
    card_model_dir: Path, card: Card, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    mosquitto_pub = require_program("mosquitto_pub", "mosquitto-clients")
    (tmp_path / "control").write_text(SLOW_LOAD)
    async with RawClient(mosquitto.port) as client:
        await client.subscribe("llm/response/#", "llm/node/#")
        async with serve(card_model_dir, card, mosquitto, tmp_path):
            await client.wait_for(ACTIVITY, 3, timeout_s=20)
            message = ["-t", "llm/request/button7", "-m", "What is 3 plus 4?"]
            publishing = await asyncio.create_subprocess_exec(
                mosquitto_pub, "-p", str(mosquitto.port), *message
            )
            assert await publishing.wait() == 0
            (payload,) = await client.wait_for("llm/response/button7", timeout_s=40)
            assert "7" in payload.decode() or "seven" in payload.decode().lower()
            await eventually(lambda: client.payloads(ACTIVITY)[-1] == b"idle")
            (tmp_path / "control").write_text(SLOW_RUN)
            client.publish("llm/request/button8", '{"prompt": "A poem, please.", "max_tokens": 5}')
            await eventually(lambda: client.payloads(ACTIVITY)[-1] == b"generating", 20)
            (payload,) = await client.wait_for("llm/response/button8", timeout_s=40)
            assert json.loads(payload)["text"]
            (tmp_path / "control").write_text("")
            await eventually(lambda: client.payloads(ACTIVITY)[-1] == b"idle")
            async with RawClient(mosquitto.port) as late:
                await late.subscribe(INFO)
                (info,) = await late.wait_for(INFO)  # as it is retained
            (model,) = json.loads(info)["models"]
            assert model["kv_slots"] == 4
            assert model["runtime"].startswith("axcl 3.10.2, queued")
        told = client.payloads(ACTIVITY)
        loading = [f"loading {done}/7".encode() for done in range(2, 7)]
        assert [word for word in told if word in loading] == loading
        assert told[-2:] == [b"idle", b"offline"]
    assert left_on_card(tmp_path) == NOTHING


async def test_a_stop_while_it_loads_is_clean(
    card_model_dir: Path, card: Card, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    (tmp_path / "control").write_text(SLOWER_LOAD)
    async with RawClient(mosquitto.port) as client:
        await client.subscribe(ACTIVITY)
        async with serve(card_model_dir, card, mosquitto, tmp_path):
            await eventually(lambda: b"loading 1/7" in client.payloads(ACTIVITY), 20)
    assert left_on_card(tmp_path) == NOTHING
    assert "Traceback" not in (tmp_path / "serve.log").read_text()


async def test_a_stop_in_mid_answer_is_told_and_clean(
    card_model_dir: Path, card: Card, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    async with RawClient(mosquitto.port) as client:
        await client.subscribe("llm/response/#", ACTIVITY)
        async with serve(card_model_dir, card, mosquitto, tmp_path):
            await eventually(lambda: b"idle" in client.payloads(ACTIVITY), 20)
            (tmp_path / "control").write_text(SLOW_RUN)
            # At QoS 0, as the broker has nothing that could go back to it.
            client.publish("llm/request/b", '{"prompt": "Tell me a poem about the sea."}', 0)
            await eventually(lambda: b"generating" in client.payloads(ACTIVITY), 20)
        (payload,) = await client.wait_for("llm/response/b")
        assert json.loads(payload)["error"]["code"] == "shutting_down"
    assert left_on_card(tmp_path) == NOTHING
