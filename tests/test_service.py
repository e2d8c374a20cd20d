"""The MQTT front end, at real brokers: each request gets exactly one final message."""

import json

import pytest

from edge_llm.mqtt import Publication
from edge_llm.protocol import MAX_PAYLOAD_BYTES
from tests.brokers import Broker, Mosquitto, Proxy
from tests.clients import eventually
from tests.stage import (
    FINAL,
    INFO,
    STATUS,
    Stage,
    open_proxied,
    open_stage,
    retained,
)

pytestmark = pytest.mark.usefixtures("reconnects_quickly")


async def test_text_in_text_out(stage: Stage) -> None:
    stage.ask("say Good evening.")
    assert await stage.text() == "Good evening."


async def test_json_in_json_out(stage: Stage) -> None:
    stage.ask({"prompt": "say Good evening.", "seed": 1})
    body = await stage.final()
    timing = body.pop("timing")
    assert body == {
        "id": "a",
        "node": "stage",
        "model": "tiny",
        "text": "Good evening.",
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": 2,
            "cached_tokens": 0,
            "completion_tokens": 2,
            "reasoning_tokens": 0,
        },
    }
    assert set(timing) >= {"queue_s", "ttft_s", "total_s"}


async def test_json_in_text_out(stage: Stage) -> None:
    stage.ask({"prompt": "say Good evening.", "format": "text"})
    assert await stage.text() == "Good evening."


async def test_messages_are_a_prompt_too(stage: Stage) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "say Yes"}]
    stage.ask({"messages": turns})
    assert (await stage.final())["text"] == "Yes"


async def test_an_id_may_have_two_levels_and_any_letters(stage: Stage) -> None:
    stage.ask("say one", "esp1/42")
    stage.ask("say two", "Büro 7/öl")
    assert await stage.text("esp1/42") == "one"
    assert await stage.text("Büro 7/öl") == "two"


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_every_quality_of_service_is_answered(stage: Stage, qos: int) -> None:
    stage.ask("say Yes", qos=qos)
    assert await stage.text() == "Yes"
    await stage.settle()
    assert len(stage.finals()) == 1


async def test_max_bytes_fits_small_clients(stage: Stage) -> None:
    stage.ask({"prompt": "say Eins zwei drei vier fünf sechs", "format": "text", "max_bytes": 20})
    text = await stage.text()
    assert len(text.encode()) <= 20
    assert text == "Eins zwei drei…"


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("stream", [True, "token", "sentence"])
async def test_deltas_come_in_order_without_gaps_and_add_up(
    stage: Stage, stream: str | bool, form: str
) -> None:
    text = "One two. Three four! Five"
    stage.ask({"prompt": f"say {text}", "stream": stream, "format": form})
    await stage.client.wait_for(FINAL)
    deltas = stage.client.payloads(f"{FINAL}/delta")
    if form == "json":
        assert (await stage.final())["text"] == text
        parts = [json.loads(delta) for delta in deltas]
        assert [part["seq"] for part in parts] == list(range(len(parts)))
        texts = [part["text"] for part in parts]
    else:
        assert await stage.text() == text
        texts = [delta.decode() for delta in deltas]
    assert "".join(texts) == text
    if stream == "sentence":
        assert texts == ["One two.", " Three four! Five"]  # a short one does not stand alone
    else:
        assert texts == ["One", " two.", " Three", " four!", " Five"]


async def test_an_id_may_be_used_again_at_once(stage: Stage) -> None:
    for number in range(1, 30):
        stage.ask("say Yes", qos=number % 2)
        await stage.client.wait_for(FINAL, number)
    assert not stage.client.payloads(f"{FINAL}/error")


async def test_it_is_online_and_says_what_it_has(stage: Stage, broker: Broker) -> None:
    await eventually(
        lambda: [info for info in stage.client.payloads(INFO) if json.loads(info)["models"]]
    )
    async with broker.client() as late:
        await late.subscribe("llm/node/#")
        status = (await late.wait_for(STATUS))[-1]
        info = json.loads((await late.wait_for(INFO))[-1])
    assert status == b"online"
    assert info == {
        "node": "stage",
        "version": "1",
        "protocol": 1,
        "boot_id": "b1",
        "models": [{"id": "tiny", "context_len": 512, "vocab_size": 1000}],
        "engine": "worker",
        "queue_limit": 16,
        "presets": [],
        "max_payload_bytes": MAX_PAYLOAD_BYTES,
    }


async def test_a_clean_stop_says_offline_for_those_who_come_later(broker: Broker) -> None:
    async with open_stage(broker):
        pass
    async with broker.client() as late:
        await late.subscribe(STATUS)
        assert set(await late.wait_for(STATUS)) == {b"offline"}


async def test_the_will_says_offline_and_a_return_online(broker: Broker) -> None:
    async with Proxy(broker.port) as proxy, open_proxied(broker, proxy) as stage:
        await eventually(lambda: stage.client.payloads(INFO))  # all was said
        stage.client.messages.clear()
        proxy.refuses = True
        proxy.cut()
        assert await stage.client.wait_for(STATUS) == [b"offline"]
        proxy.refuses = False
        assert await stage.client.wait_for(STATUS, 2) == [b"offline", b"online"]


async def test_a_cancelled_request_ends_with_what_was_said(stage: Stage) -> None:
    stage.ask({"prompt": "hold the line", "stream": "token"})
    await stage.client.wait_for(f"{FINAL}/delta")
    stage.cancel()
    body = await stage.final()
    assert (body["text"], body["finish_reason"]) == ("hold", "cancelled")
    assert stage.engine.num_running == 0
    await stage.settle()
    assert len(stage.finals()) == 1


async def test_a_cancelled_text_request_ends_with_what_was_said(stage: Stage) -> None:
    stage.ask("hold the line")
    await eventually(lambda: stage.engine.num_running)
    stage.cancel()
    assert await stage.text() == "hold"


async def test_a_request_in_the_queue_can_be_cancelled(stage: Stage) -> None:
    stage.ask("hold the line", "first")
    stage.ask({"prompt": "say never"}, "esp1/2")
    await eventually(lambda: stage.queue.num_waiting)
    stage.cancel("esp1/2")
    body = await stage.final("esp1/2")
    assert (body["text"], body["finish_reason"]) == ("", "cancelled")
    assert stage.queue.num_waiting == 0
    await stage.settle()
    assert stage.engine.asked == ["hold the line", "say marker"]


async def test_a_request_that_has_not_begun_can_be_cancelled(mosquitto: Mosquitto) -> None:
    """As when both messages are in one packet: its task never runs."""
    async with open_stage(mosquitto.broker()) as stage:
        asked = Publication("llm/request/a", b'{"prompt": "say never"}', 1, False, False, 999)
        stage.service._take(asked)
        stage.service._take(Publication("llm/cancel/a", b"", 0, False, False, 0))
        assert (await stage.final())["finish_reason"] == "cancelled"
        assert not stage.engine.asked
        await stage.settle()
        assert len(stage.finals()) == 1


async def test_cancelling_what_has_ended_or_never_was_does_nothing(stage: Stage) -> None:
    stage.cancel("ghost")
    stage.ask("say Yes")
    await stage.text()
    stage.cancel()
    stage.cancel()
    await stage.settle()
    assert (stage.finals(), stage.finals("ghost")) == ([b"Yes"], [])
    assert not stage.service._requests.is_in_hand("a")
    stage.ask("say Again")  # not cancelled by what came before it
    assert await stage.client.wait_for(FINAL, 2) == [b"Yes", b"Again"]


async def test_cancelling_twice_is_cancelling_once(stage: Stage) -> None:
    stage.ask({"prompt": "hold the line"})
    await eventually(lambda: stage.engine.num_running)
    for _ in range(5):
        stage.cancel()
    assert (await stage.final())["finish_reason"] == "cancelled"
    await stage.settle()
    assert len(stage.finals()) == 1
    assert not stage.service._requests.is_in_hand("a")


async def test_a_retained_cancel_is_cleared(broker: Broker) -> None:
    async with broker.client() as client:
        client.publish("llm/cancel/a", b"stop", retain=True)
        async with open_stage(broker) as stage:
            client.publish("llm/cancel/a", b"stop", 0, retain=True)
            await stage.settle()
        if broker.protocol == "5":  # 3.1.1 brokers tell only those who subscribe later
            assert await retained(broker, "llm/cancel/a") == []
