"""Five thousand requests that nobody should send: one clear error each, and nothing breaks."""

import gc
import json
import random
import secrets
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from edge_llm.errors import EdgeLLMError, InvalidRequestError
from edge_llm.preset import Preset, Presets
from edge_llm.protocol import ChatRequest, MqttRequest, parse_mqtt_request
from edge_llm.service import Rules
from tests.brokers import Mosquitto
from tests.clients import eventually
from tests.stage import ERROR, Stage, open_stage
from tests.test_many_requests import quiet

__all__ = ["quiet"]  # a fixture

NUM_MADE, NUM_MUTATED = 2500, 2500
BATCH = 250
SEED = 20261127
"""CI must not fail for what a change did not do; chance has its turn in the long form."""
GROWTH_BYTES = 300_000
CODES = {cls.code for cls in EdgeLLMError.tree()}

VALID: dict[str, Any] = {
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "say Hi"}],
    "preset": "oracle",
    "session": "booth-1",
    "max_tokens": 20,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "repeat_penalty": 1.1,
    "repeat_last_n": 64,
    "frequency_penalty": 0.1,
    "presence_penalty": -0.1,
    "logit_bias": {"5": -1.5},
    "seed": 7,
    "stop": ["#", "["],
    "enable_thinking": False,
    "thinking_budget": 100,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "logprobs": True,
    "top_logprobs": 3,
    "priority": 5,
    "preempt": False,
    "ttl_s": 30,
    "time_budget_s": 20.5,
    "overflow": "drop_oldest",
    "stream": "sentence",
    "events": True,
    "format": "json",
    "max_bytes": 200,
    "parts": True,
}

_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
_names = st.sampled_from(sorted(MqttRequest.model_fields)) | st.text(max_size=10)
_objects = st.dictionaries(_names, _values, max_size=8)
payloads = (
    _objects.map(json.dumps).map(str.encode)
    | st.builds(lambda fields: json.dumps({**VALID, **fields}).encode(), _objects)
    | st.binary(max_size=60)
    | st.binary(max_size=60).map(lambda data: b"{" + data)
    | st.text(max_size=60).map(lambda text: ("{" + text + "}").encode(errors="replace"))
)


def is_for_another(payload: bytes) -> bool:
    """Tell whether a request is right, but for a node that isn't here: nobody answers it."""
    try:
        return parse_mqtt_request(payload).node not in (None, "stage")
    except InvalidRequestError:
        return False


def make_payloads(number: int) -> list[bytes]:
    made: list[bytes] = []

    @seed(number)
    @settings(
        max_examples=NUM_MADE,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(payloads.filter(lambda payload: not is_for_another(payload)))
    def collect(payload: bytes) -> None:
        made.append(payload)

    collect()
    return made[:NUM_MADE]


def mutate(chance: random.Random) -> bytes:
    """Change a few bytes of a request that would be right, as a bad line or a bad hand would."""
    fields = dict(chance.sample(sorted(VALID.items()), chance.randint(1, len(VALID))))
    data = bytearray(json.dumps({"messages": VALID["messages"], **fields}).encode())
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data)) if data else 0
        match chance.randrange(6):
            case 0:
                del data[at : at + chance.randint(1, 30)]
            case 1:
                data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 4)))
            case 2:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 3:
                data = data[:at]
            case 4:
                data[at:at] = data[at : at + chance.randint(1, 40)]
            case 5:
                data[at:at] = chance.choice([b"null", b"-1", b"1e999", b"NaN", b'""', b"[]", b"{}"])
    return bytes(data)


def one_by_one(items: Sequence[bytes]) -> Iterator[list[tuple[int, bytes]]]:
    numbered = list(enumerate(items))
    for start in range(0, len(numbered), BATCH):
        yield numbered[start : start + BATCH]


def ends(stage: Stage) -> dict[str, list[Any]]:
    """Final messages by request id."""
    found: dict[str, list[Any]] = {}
    for message in tuple(stage.client.messages):
        levels = message.topic.removeprefix("llm/response/").split("/")
        if message.topic.startswith("llm/response/f/") and levels[2:] in ([], ["error"]):
            found.setdefault(levels[1], []).append(message)
    return found


async def send(stage: Stage, payloads: Sequence[bytes]) -> Counter[str]:
    """Send all; each must have exactly one end, and that must be clear."""
    codes: Counter[str] = Counter()
    for batch in one_by_one(payloads):
        for number, payload in batch:
            stage.ask(payload, f"f/{number}", qos=number % 2)
        await eventually(
            lambda batch=batch: len(ends(stage)) >= len(batch),  # type: ignore[misc]
            30,
            lambda batch=batch: str([p for n, p in batch if str(n) not in ends(stage)][:5]),  # type: ignore[misc]
        )
        await stage.settle()
        found = ends(stage)
        for number, payload in batch:
            [message] = found[str(number)]
            codes[code_of(message, payload)] += 1
        stage.client.messages.clear()
        stage.num_markers = 0
        stage.engine.asked.clear()
    return codes


def code_of(message: Any, payload: bytes) -> str:
    text = bytes(message.payload).decode()
    if message.topic.endswith("/error"):
        code, _, explanation = text.partition(": ")
    elif text.startswith("{") and "error" in (body := json.loads(text)):
        code, explanation = body["error"]["code"], body["error"]["message"]
    else:
        return "answered"
    assert code in CODES, (payload, text)
    assert code != "internal", (payload, text)
    assert explanation, (payload, text)
    return code


async def test_malformed_requests_get_one_clear_error_each(mosquitto: Mosquitto) -> None:
    await send_all(mosquitto, SEED)


@pytest.mark.soak
async def test_others_do_too(mosquitto: Mosquitto) -> None:
    number = secrets.randbits(32)
    print(f"seed {number}")
    await send_all(mosquitto, number)


async def send_all(mosquitto: Mosquitto, number: int) -> None:
    made = make_payloads(number)
    chance = random.Random(number)
    mutated = [mutate(chance) for _ in range(NUM_MUTATED)]
    assert len(made) + len(mutated) == NUM_MADE + NUM_MUTATED
    rules = Rules(Presets({"oracle": Preset(system_prompt="An oracle.")}))
    async with open_stage(mosquitto.broker(), rules=rules, limit=300) as stage:
        stage.engine.release.set()
        await send(stage, made[:BATCH])  # caches fill
        gc.collect()
        tracemalloc.start()
        try:
            codes = await send(stage, made)
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            codes += await send(stage, mutated)
            gc.collect()
            growth = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        print(f"{dict(codes.most_common())}, {growth:+} bytes")
        assert sum(codes.values()) == NUM_MADE + NUM_MUTATED
        assert {"invalid_json", "invalid_utf8", "unknown_field", "invalid_request"} < set(codes)
        assert codes["answered"], "some mutations must leave a request right"
        assert codes["invalid_json"] + codes["invalid_request"] >= 1000
        assert growth < GROWTH_BYTES
        assert not stage.task.done()
        assert not stage.service._conversations._locks


@pytest.mark.parametrize(
    "topic",
    [
        "llm/request/",
        "llm/request//x",
        "llm/request/x/",
        "llm/request/x/delta",
        f"llm/request/{'y' * 200}",
        "llm/request/\u200e",
    ],
)
async def test_ids_that_cannot_be_answered_are_told_on_the_nodes_topic(
    mosquitto: Mosquitto, topic: str
) -> None:
    async with open_stage(mosquitto.broker("3.1.1")) as stage:
        stage.client.publish(topic, b"say Hi")
        [error] = await stage.client.wait_for(ERROR)
        assert json.loads(error)["code"] == "invalid_id"


def test_the_valid_one_is_valid() -> None:
    """Else its mutations would test nothing."""
    assert MqttRequest.model_validate_json(json.dumps(VALID)).preset == "oracle"
    assert set(MqttRequest.model_fields) - set(VALID) == {"prompt", "model", "node", "choices"}
    assert set(ChatRequest.model_fields) < set(MqttRequest.model_fields)
