"""What is wrong with a request: one clear error, and nothing else changes."""

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge_llm.mqtt import MqttConnection, Publication
from edge_llm.topics import MAX_ID_CHARS
from tests.brokers import Broker, Mosquitto, Proxy
from tests.clients import eventually
from tests.stage import ERROR, FINAL, Protocol, Stage, open_proxied, open_stage, retained

pytestmark = pytest.mark.usefixtures("reconnects_quickly")


BAD_JSON: dict[str, tuple[str | bytes, str]] = {
    "broken": ('{"prompt": "x"', "invalid_json"),
    "only a brace": ("{", "invalid_json"),
    "two objects": ('{"prompt": "x"} {}', "invalid_json"),
    "not UTF-8": (b'{"prompt": "\xff"}', "invalid_utf8"),
    "half a surrogate": (r'{"prompt": "\ud800"}', "invalid_json"),
    "nothing": ("{}", "invalid_request"),
    "empty prompt": ('{"prompt": ""}', "invalid_request"),
    "blank prompt": ('{"prompt": " \\n"}', "invalid_request"),
    "prompt of null": ('{"prompt": null}', "invalid_request"),
    "prompt of number": ('{"prompt": 5}', "invalid_request"),
    "prompt and messages": (
        '{"prompt": "x", "messages": [{"role": "user", "content": "x"}]}',
        "invalid_request",
    ),
    "no messages": ('{"messages": []}', "invalid_request"),
    "messages of text": ('{"messages": "x"}', "invalid_request"),
    "null content": ('{"messages": [{"role": "user", "content": null}]}', "invalid_request"),
    "list content": (
        '{"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}',
        "invalid_request",
    ),
    "no content": ('{"messages": [{"role": "user"}]}', "invalid_request"),
    "empty content": ('{"messages": [{"role": "user", "content": ""}]}', "invalid_request"),
    "unknown role": ('{"messages": [{"role": "bot", "content": "x"}]}', "invalid_request"),
    "field of a message": (
        '{"messages": [{"role": "user", "content": "x", "name": "y"}]}',
        "unknown_field",
    ),
    "number as text": ('{"prompt": "x", "max_tokens": "5"}', "invalid_request"),
    "number as boolean": ('{"prompt": "x", "max_tokens": true}', "invalid_request"),
    "fraction": ('{"prompt": "x", "max_tokens": 5.5}', "invalid_request"),
    "too low": ('{"prompt": "x", "max_tokens": 0}', "invalid_request"),
    "too hot": ('{"prompt": "x", "temperature": 2.01}', "invalid_request"),
    "NaN": ('{"prompt": "x", "temperature": NaN}', "invalid_request"),
    "infinite": ('{"prompt": "x", "ttl_s": Infinity}', "invalid_request"),
    "too many stops": ('{"prompt": "x", "stop": ["a", "b", "c", "d", "e"]}', "invalid_request"),
    "empty stop": ('{"prompt": "x", "stop": [""]}', "invalid_request"),
    "huge seed": ('{"prompt": "x", "seed": 100000000000000000000}', "invalid_request"),
    "unknown stream": ('{"prompt": "x", "stream": "words"}', "invalid_request"),
    "unknown format": ('{"prompt": "x", "format": "xml"}', "invalid_request"),
    "tiny max_bytes": ('{"prompt": "x", "max_bytes": 15}', "invalid_request"),
    "unknown field": ('{"prompt": "x", "temprature": 1}', "unknown_field"),
    "preset": ('{"prompt": "x", "preset": "oracle"}', "preset_not_found"),
    "session": ('{"prompt": "x", "session": "a/b"}', "invalid_request"),
    "budget": ('{"prompt": "x", "time_budget_s": 0}', "invalid_request"),
    "parts": ('{"prompt": "x", "parts": true}', "invalid_request"),
    "later": ('{"prompt": "x", "retain_s": 5}', "unsupported_field"),
    "tools": ('{"prompt": "x", "tool_choice": "required"}', "invalid_request"),
    "model": ('{"prompt": "x", "model": "gpt-4"}', "model_not_found"),
    "1 MB": ('{"prompt": "' + "x" * 1_000_000 + '"}', "payload_too_large"),
}


async def test_bad_json_is_answered_with_the_right_code(stage: Stage) -> None:
    """All at one node: none may disturb the next."""
    for number, (name, (payload, code)) in enumerate(BAD_JSON.items()):
        assert await stage.code(payload, f"bad/{number}") == code, name
    assert not stage.engine.asked
    await stage.settle()
    for number, name in enumerate(BAD_JSON):
        assert len(stage.finals(f"bad/{number}")) == 1, name


async def test_bad_text_is_answered_as_code_and_message_off_the_answers(stage: Stage) -> None:
    bad: list[tuple[bytes, str]] = [
        (b"\xff\xfe", "invalid_utf8: the request is not UTF-8: byte 0 is wrong"),
        (b"", "invalid_request: the prompt is empty"),
        (b" \n", "invalid_request: the prompt is empty"),
        (b"x" * 1_000_000, "payload_too_large: the request has 1000000 bytes"),
    ]
    for number, (payload, message) in enumerate(bad):
        stage.ask(payload, f"bad{number}")
        assert (await stage.error(f"bad{number}")).startswith(message)
    await stage.settle()
    for number in range(len(bad)):
        assert len(stage.finals(f"bad{number}")) == 1


async def test_the_field_at_fault_is_named(stage: Stage) -> None:
    stage.ask({"prompt": "x", "messages": [{"role": "user"}]}, "a")
    assert (await stage.final("a"))["error"]["param"] == "messages.0.content"
    stage.ask({"prompt": "x", "temprature": 1}, "b")
    assert (await stage.final("b"))["error"]["param"] == "temprature"


async def test_what_looks_almost_like_json_is_a_prompt(stage: Stage) -> None:
    for number, text in enumerate(('["a"]', '"a"', "42", "null", "say {}")):
        stage.ask(text, f"{number}")
        assert await stage.text(f"{number}") == text.removeprefix("say ")


async def test_failures_of_the_engine_are_answered(stage: Stage) -> None:
    assert await stage.code({"prompt": "fail"}) == "internal"
    stage.ask("fail", "b")
    assert await stage.error("b") == "internal: it was told to fail"


async def test_a_crash_is_answered_and_logged_and_the_next_request_runs(stage: Stage) -> None:
    stage.engine.error = RuntimeError("a bug")
    with capture_logs() as logs:
        assert await stage.code({"prompt": "x"}) == "internal"
    assert "request.crashed" in [entry["event"] for entry in logs]
    assert "a bug" not in str(stage.client.payloads(FINAL))
    stage.engine.error = None
    stage.ask("say Yes", "b")
    assert await stage.text("b") == "Yes"


@pytest.mark.parametrize("request_id", ["a/delta", "a/error", "a/part", "a/event", "/b", "a/"])
async def test_an_id_that_cant_be_answered_is_refused_on_the_nodes_topic(
    stage: Stage, request_id: str
) -> None:
    stage.ask("say never", request_id)
    [payload] = await stage.client.wait_for(ERROR)
    assert json.loads(payload)["code"] == "invalid_id"
    assert not stage.engine.asked


async def test_a_long_id_is_refused(stage: Stage) -> None:
    longest = "x" * (MAX_ID_CHARS - 2) + "/y"
    stage.ask("say Yes", longest)
    assert await stage.text(longest) == "Yes"
    stage.ask("say never", f"{longest}y")
    [payload] = await stage.client.wait_for(ERROR)
    assert json.loads(payload)["code"] == "invalid_id"


async def test_an_id_with_control_characters_is_refused_here_or_by_the_broker(
    stage: Stage, broker: Broker
) -> None:
    async with broker.client() as client:
        gone: list[Any] = []
        client.paho.on_disconnect = lambda *args: gone.append(args)
        client.publish("llm/request/a\x07b", "say never", 0)
        if broker.is_mosquitto:  # it throws out whoever sends such a topic
            await eventually(lambda: gone)
        else:
            [payload] = await stage.client.wait_for(ERROR)
            assert json.loads(payload)["code"] == "invalid_id"
    await stage.settle()
    assert stage.engine.asked == ["say marker"]


async def test_a_bad_cancel_is_refused_and_the_node_goes_on(stage: Stage) -> None:
    stage.cancel("a/delta")
    await stage.client.wait_for(ERROR)
    await stage.settle()


async def test_a_retained_request_is_refused_once_and_cleared(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    broker = mosquitto.broker(protocol)
    async with broker.client() as client, Proxy(broker.port) as proxy:
        if protocol == "3.1.1":  # a live copy has no flag there: only what was there before has
            client.publish("llm/request/a", '{"prompt": "say never"}', retain=True)
        async with open_proxied(broker, proxy) as stage:
            if protocol == "5":
                stage.ask({"prompt": "say never"}, retain=True)
            body = await stage.final()
            assert body["error"]["code"] == "retained_request"
            await stage.settle()
            assert await retained(broker, "llm/request/a") == []
            proxy.cut()
            await eventually(lambda: proxy.num_connections > 1)
            await stage.settle()
            assert len(stage.finals()) == 1
            assert not stage.service._cleared
            assert "say never" not in stage.engine.asked


async def test_a_retained_request_with_a_bad_id_is_cleared_too(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    async with open_stage(broker) as stage:
        stage.ask("say never", "a/delta", retain=True)
        await stage.client.wait_for(ERROR)
        await stage.settle()
        assert await retained(broker, "llm/request/a/delta") == []
        assert len(stage.client.payloads(ERROR)) == 1


async def test_a_retained_request_of_3_1_1_has_one_answer(mosquitto: Mosquitto) -> None:
    """Its first copy has no flag; when it comes again it is cleared, and no news."""
    broker = mosquitto.broker("3.1.1")
    async with Proxy(broker.port) as proxy, open_proxied(broker, proxy) as stage:
        stage.ask("say Yes", retain=True)
        assert await stage.text() == "Yes"
        proxy.cut()
        await eventually(lambda: proxy.num_connections == 2)
        await stage.settle()
        assert stage.finals() == [b"Yes"]
        assert await retained(broker, "llm/request/a") == []


async def test_clearing_a_retained_request_is_not_a_request(mosquitto: Mosquitto) -> None:
    async with open_stage(mosquitto.broker()) as stage:
        stage.ask(b"", retain=True)
        await stage.settle()
        assert not stage.finals()


async def test_an_id_in_flight_is_refused_off_the_first_ones_topic(stage: Stage) -> None:
    stage.ask({"prompt": "hold the line"})
    await eventually(lambda: stage.engine.num_running)
    stage.ask({"prompt": "hold the line"})
    assert json.loads(await stage.error())["code"] == "duplicate_id"
    stage.engine.release.set()
    assert (await stage.final())["text"] == "hold the line"
    assert stage.engine.asked == ["hold the line"]


async def test_a_text_duplicate_gets_code_and_message(stage: Stage) -> None:
    stage.ask("hold the line")
    await eventually(lambda: stage.engine.num_running)
    stage.ask("hold the line")
    assert (await stage.error()).startswith("duplicate_id: ")
    stage.engine.release.set()
    assert await stage.text() == "hold the line"


async def test_an_id_in_flight_with_another_question_is_another_request(stage: Stage) -> None:
    stage.ask("hold the line")
    await eventually(lambda: stage.engine.num_running)
    stage.ask("say second")
    await eventually(lambda: stage.queue.num_waiting)
    stage.engine.release.set()
    assert await stage.client.wait_for(FINAL, 2) == [b"hold the line", b"say second"[4:]]


async def test_what_the_broker_repeats_is_answered_once(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    broker = mosquitto.broker(protocol)
    async with Proxy(broker.port) as proxy, open_proxied(broker, proxy) as stage:
        stage.ask({"prompt": "hold the line"})
        await eventually(lambda: stage.engine.num_running)
        for _ in range(2):
            proxy.num_connections = 0
            proxy.cut()
            await eventually(lambda: proxy.num_connections)
            await eventually(lambda: stage.service._mqtt.is_connected)
        await stage.settle()
        assert (await stage.final())["text"] == "hold the line"
        assert len(stage.finals()) == 1
        assert stage.engine.asked.count("hold the line") == 1


async def test_a_lost_acknowledgement_does_not_answer_twice(
    mosquitto: Mosquitto, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = mosquitto.broker(protocol)
    async with Proxy(broker.port) as proxy, open_proxied(broker, proxy) as stage:
        with monkeypatch.context() as patch:
            lost: list[Publication] = []
            patch.setattr(
                MqttConnection, "ack", lambda _self, publication: lost.append(publication)
            )
            stage.ask("say Yes")
            await eventually(lambda: lost)
        proxy.cut()
        await eventually(lambda: proxy.num_connections == 2)
        await stage.settle()
        assert stage.finals() == [b"Yes"]
        proxy.cut()  # now it is acknowledged, and does not come again
        await eventually(lambda: proxy.num_connections == 3)
        await stage.settle()
        assert stage.finals() == [b"Yes"]


async def test_a_message_that_breaks_the_node_breaks_nothing_else(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_stage(mosquitto.broker()) as stage:
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(stage.service._intake, "read_request", None)  # a mistake of ours
            stage.ask("say No")
            [error] = await stage.client.wait_for(ERROR)
        assert json.loads(error)["code"] == "internal"
        assert "message.crashed" in [entry["event"] for entry in logs]
        stage.ask("say Yes", "b")
        assert await stage.text("b") == "Yes"
        assert not stage.service._mqtt._inbox.num_unacknowledged
