"""How likely the tokens of an answer were: as the model saw it, whatever was done to its logits."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edge_llm.engine.loading import load_engine
from edge_llm.engine.local import LocalEngine
from edge_llm.engine.logprobs import Logprobs
from edge_llm.engine.worker.progress import Progress
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Event,
    Started,
    TokenLogprob,
    ToolCallDelta,
)
from edge_llm.settings import EngineSettings
from tests.fakes import BytePrompter


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return load_engine(EngineSettings())


def ask(**fields: Any) -> ChatRequest:
    base: dict[str, Any] = {"prompt": "Who are you?", "logprobs": True, "seed": 1}
    return ChatRequest.model_validate_json(json.dumps({**base, **fields}))


def run(engine: LocalEngine, request: ChatRequest, resume: Sequence[int] = ()) -> list[Delta]:
    *events, done = engine.generate(request, resume)
    assert isinstance(done, Done)
    return [event for event in events if isinstance(event, Delta)]


def told(deltas: Sequence[Delta]) -> list[TokenLogprob]:
    return [each for delta in deltas for each in delta.logprobs]


def text(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


@pytest.mark.parametrize("num_top", [0, 1, 5, 20])
def test_they_are_those_of_a_plain_softmax(num_top: int) -> None:
    dice = np.random.default_rng(0)
    prompter = BytePrompter()
    logprobs = Logprobs(prompter, num_top)
    for _ in range(20):
        logits = dice.normal(0, 6, 272).astype(np.float32)  # some are past the vocabulary
        token_id = int(dice.integers(0, 260))
        exact = logits[:260].astype(np.float64)
        expected = exact - np.log(np.exp(exact).sum())
        one = logprobs.of(token_id, logits)
        assert one.logprob == pytest.approx(expected[token_id], abs=1e-5)
        assert one.bytes == tuple(prompter.token_bytes[token_id])
        order = np.lexsort((np.arange(260), -expected))[:num_top]
        assert [top.logprob for top in one.top_logprobs] == pytest.approx(expected[order], abs=1e-5)
        assert [top.bytes for top in one.top_logprobs] == [
            tuple(prompter.token_bytes[n]) for n in order
        ]


def test_all_together_are_one() -> None:
    logits = np.random.default_rng(1).normal(0, 3, 260).astype(np.float32)
    logprobs = Logprobs(BytePrompter(), 0)
    total = sum(math.exp(logprobs.of(n, logits).logprob) for n in range(260))
    assert total == pytest.approx(1, abs=1e-4)


def test_what_can_not_be_is_a_number_too() -> None:
    logits = np.zeros(260, np.float32)
    logits[5] = -np.inf
    assert Logprobs(BytePrompter(), 0).of(5, logits).logprob == -9999


def test_the_tokens_are_the_text(engine: LocalEngine) -> None:
    for seed in range(5):
        deltas = run(engine, ask(top_logprobs=3, temperature=1.0, seed=seed))
        data = b"".join(bytes(each.bytes) for each in told(deltas))
        assert data.decode() == text(deltas)
        for each in told(deltas):
            assert len(each.top_logprobs) == 3
            assert each.top_logprobs[0].logprob >= each.top_logprobs[1].logprob
            assert each.top_logprobs[0].logprob >= each.logprob
            assert each.token.encode() == bytes(each.bytes)


def test_penalties_temperature_and_bias_do_not_show(engine: LocalEngine) -> None:
    plain = told(run(engine, ask(temperature=0.0, max_tokens=1, top_logprobs=5)))
    bias = {str(engine.prompter.tokenize("Just")[0]): -50}
    bent = told(
        run(engine, ask(temperature=1.7, logit_bias=bias, max_tokens=1, top_logprobs=5, top_k=1))
    )
    assert [top.token for top in plain[0].top_logprobs] == [
        top.token for top in bent[0].top_logprobs
    ]
    assert [top.logprob for top in plain[0].top_logprobs] == pytest.approx(
        [top.logprob for top in bent[0].top_logprobs], abs=1e-4
    )


def test_asking_does_not_change_the_answer(engine: LocalEngine) -> None:
    schema = {"type": "object", "properties": {"a_long_name": {"enum": ["x", "y", "z"]}}}
    form = {
        "type": "json_schema",
        "json_schema": {"schema": {**schema, "required": ["a_long_name"]}},
    }
    for fields in ({}, {"response_format": form}):
        asked = run(engine, ask(temperature=1.2, **fields))
        plain = run(engine, ask(temperature=1.2, logprobs=False, **fields))
        assert text(asked) == text(plain)
        assert not told(plain)


def test_forced_tokens_have_theirs(engine: LocalEngine) -> None:
    schema = {"const": {"a_long_name_of_something": "and a long value"}}
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    deltas = run(engine, ask(response_format=form, top_logprobs=2))
    assert json.loads(text(deltas)) == schema["const"]
    assert b"".join(bytes(each.bytes) for each in told(deltas)).decode() == text(deltas)
    assert all(each.logprob < 0 for each in told(deltas))


def test_reasoning_and_calls_have_none(engine: LocalEngine) -> None:
    deltas = run(engine, ask(enable_thinking=True, temperature=0.0, max_tokens=120))
    assert "".join(delta.reasoning for delta in deltas)
    assert b"".join(bytes(each.bytes) for each in told(deltas)).decode() == text(deltas)
    tools = [{"type": "function", "function": {"name": "it"}}]
    deltas = run(engine, ask(tools=tools, tool_choice="required"))
    assert any(delta.tool_calls for delta in deltas)
    assert told(deltas) == []


def test_a_stop_string_takes_those_of_its_tokens_with_it(engine: LocalEngine) -> None:
    whole = text(run(engine, ask(temperature=0.0)))
    deltas = run(engine, ask(temperature=0.0, stop=[whole[8:16]]))
    assert text(deltas) == whole[:8]
    data = b"".join(bytes(each.bytes) for each in told(deltas)).decode()
    assert text(deltas).startswith(data)
    deltas = run(engine, ask(temperature=0.0, stop=[whole[8:] + " and no more"]))
    assert text(deltas) == whole
    assert b"".join(bytes(each.bytes) for each in told(deltas)).decode() == whole


@pytest.mark.parametrize("cut", [0, 1, 4, 9])
def test_they_go_on_where_another_process_ended(engine: LocalEngine, cut: int) -> None:
    request = ask(top_logprobs=2, temperature=0.8)
    deltas = run(engine, request)
    resume = [n for delta in deltas[:cut] for n in delta.token_ids]
    rest = run(engine, request, resume)
    assert [each.token for each in told(rest)] == [each.token for each in told(deltas[cut:])]


def test_what_is_no_text_crosses_to_the_core_as_well() -> None:
    progress = Progress(ask())
    logprob = TokenLogprob(token="a", bytes=(97,), logprob=-1.0)
    call = ToolCallDelta(index=0, id="call_1", name="it")
    events: list[Event] = [
        Started(dropped_messages=3),
        Delta(token_ids=(1,), logprobs=(logprob,)),
        Delta(token_ids=(2,)),
        Delta(token_ids=(3, 4), tool_calls=(call,)),
        Delta(logprobs=(logprob,)),
        Done(finish_reason="stop"),
    ]
    news = [each for event in events for each in progress.take(event)]
    assert news == [
        events[0],
        Delta(logprobs=(logprob,)),
        Delta(tool_calls=(call,)),
        events[4],
        events[5],
    ]
    assert progress.token_ids == [1, 2, 3, 4]
