"""Tokens that must come are computed together where that is cheaper, and one by one elsewhere."""

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edge_llm.engine.generation import ModelRunner
from edge_llm.engine.loading import load_engine
from edge_llm.engine.local import LocalEngine
from edge_llm.engine.time_budget import DELIVERY_S, Speed, TimeBudget
from edge_llm.protocol import ChatRequest, Delta, Done
from edge_llm.settings import EngineSettings
from tests.fakes import FakeModel

LONG_NAMES = {
    "type": "object",
    "properties": {
        "the_first_property_has_a_very_long_name": {"type": "boolean"},
        "and_so_has_the_second_property_of_all": {"type": "boolean"},
    },
    "required": [
        "the_first_property_has_a_very_long_name",
        "and_so_has_the_second_property_of_all",
    ],
}
CHEAP, DEAR = {1: 1.0, 16: 1.5, 128: 2.0}, {1: 1.0, 16: 1000.0, 128: 1000.0}


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return load_engine(EngineSettings())


def ask(**fields: Any) -> ChatRequest:
    form = {"type": "json_schema", "json_schema": {"schema": LONG_NAMES}}
    base: dict[str, Any] = {"prompt": "Hi", "seed": 4, "response_format": form}
    return ChatRequest.model_validate_json(json.dumps({**base, **fields}))


def run(engine: LocalEngine, request: ChatRequest) -> tuple[str, Done, list[Delta]]:
    *events, done = engine.generate(request)
    assert isinstance(done, Done)
    deltas = [event for event in events if isinstance(event, Delta)]
    return "".join(delta.text for delta in deltas), done, deltas


def at_costs(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, costs: dict[int, float]
) -> list[int]:
    """Have a runner believe in costs; return the list of the lengths of its runs."""
    lengths: list[int] = []
    stack_run = engine.runner._stack.run

    def counted(slot: int, hidden: Any, *args: Any, **kwargs: Any) -> Any:
        lengths.append(len(hidden))
        return stack_run(slot, hidden, *args, **kwargs)

    monkeypatch.setattr(engine.runner, "_run_s", costs)
    monkeypatch.setattr(engine.runner._stack, "run", counted)
    return lengths


def test_forced_tokens_are_few_runs_where_chunks_are_cheap(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(engine, ask(max_tokens=1))  # the prompt is known from here on
    lengths = at_costs(engine, monkeypatch, CHEAP)
    text, done, _ = run(engine, ask())
    assert set(json.loads(text)) == set(LONG_NAMES["properties"])
    assert len(lengths) < done.usage.completion_tokens / 4


def test_they_are_steps_where_chunks_are_dear(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap = run(engine, ask())
    lengths = at_costs(engine, monkeypatch, DEAR)
    text, done, deltas = run(engine, ask())
    # First comes what was not known of the prompt; the last tokens of an answer aren't computed.
    assert set(lengths[2:]) == {1}
    assert len(lengths) > 0.9 * done.usage.completion_tokens
    assert text == cheap[0]
    assert [delta.token_ids for delta in deltas if delta.token_ids] == [
        delta.token_ids for delta in cheap[2] if delta.token_ids
    ]


def test_with_log_probabilities_they_are_steps_too(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(engine, ask(max_tokens=1))
    lengths = at_costs(engine, monkeypatch, CHEAP)
    _, done, deltas = run(engine, ask(logprobs=True))
    assert set(lengths) == {1}
    assert len(lengths) == done.usage.completion_tokens
    assert len([each for delta in deltas for each in delta.logprobs]) == len(lengths)


def test_each_step_of_a_forced_run_can_be_the_last(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_costs(engine, monkeypatch, DEAR)
    _, done, deltas = run(engine, ask())
    assert len(deltas) > 0.9 * done.usage.completion_tokens


def test_a_free_answer_needs_no_mask(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("a constraint was made")

    monkeypatch.setattr("edge_llm.engine.constraint.Constraint.__init__", never)
    monkeypatch.setattr("edge_llm.engine.constraint.ending.EndingFinder.__init__", never)
    request = ask(response_format=None, thinking_budget=4, enable_thinking=True, max_tokens=12)
    assert run(engine, request)[1].finish_reason in ("stop", "length")


def feed(runner: ModelRunner, prompt: Sequence[int], run: Sequence[int]) -> Any:
    *_, logits = runner.prefill(prompt)
    *_, logits = runner.extend(run)
    assert logits is not None
    return logits.copy()


@pytest.mark.parametrize("costs", [CHEAP, DEAR, {}])
@pytest.mark.parametrize("num_tokens", [1, 2, 7, 16, 40, 130])
def test_a_run_gives_the_logits_of_its_last_token(num_tokens: int, costs: dict[int, float]) -> None:
    dice = np.random.default_rng(num_tokens)
    prompt, tokens = dice.integers(0, 256, 20).tolist(), dice.integers(0, 256, num_tokens).tolist()
    model, other = FakeModel(), FakeModel()
    model.runner._run_s = costs
    logits = feed(model.runner, prompt, tokens)
    *_, expected = other.runner.prefill([*prompt, *tokens])
    assert expected is not None
    assert np.allclose(logits, expected, atol=1e-4)
    assert model.runner.cached_ids == [*prompt, *tokens]


def test_what_a_run_costs_is_measured() -> None:
    model = FakeModel()
    now = 0.0
    durations = {1: 1.0, 16: 2.0, 128: 30.0}
    layer = model.layers[0]
    layer_run = layer.run

    def timed(feed: Any, group: int = 0) -> Any:
        nonlocal now
        now += durations[model.groups[group][0]]
        return layer_run(feed, group)

    layer.run = timed  # type: ignore[method-assign]
    model.runner.measure(lambda: now)
    assert model.runner._run_s == durations
    assert model.runner.cached_ids == []
    list(model.runner.prefill([1, 2, 3]))
    model.take_calls()
    list(model.runner.extend(range(2)))
    assert [length for length, _ in model.take_calls()] == [1, 1]
    list(model.runner.extend(range(3)))
    assert [length for length, _ in model.take_calls()] == [16]
    list(model.runner.extend(range(40)))
    assert [length for length, _ in model.take_calls()] == [16, 16, 16]


def test_a_load_measures(engine: LocalEngine) -> None:
    lengths = {length for length, _ in engine.runner.geometry.groups}
    assert set(engine.runner._run_s) == lengths
    assert all(seconds > 0 for seconds in engine.runner._run_s.values())


class Clock:
    """Goes on by what each run takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("budget_s", [3.0, 5.0, 8.0])
def test_a_form_is_whole_when_its_time_is_over(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, budget_s: float
) -> None:
    clock = Clock()
    stack_run = engine.runner._stack.run

    def slow(*args: Any, **kwargs: Any) -> Any:
        clock.now += 0.1
        return stack_run(*args, **kwargs)

    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(TimeBudget.__init__, "__defaults__", (clock,))
    monkeypatch.setattr(engine.runner._stack, "run", slow)
    monkeypatch.setattr(engine, "speed", Speed(0.1))
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    request = ask(response_format=form, temperature=1.5, top_k=0, top_p=1.0, time_budget_s=budget_s)
    text, done, _ = run(engine, request)
    assert clock.now <= budget_s - DELIVERY_S
    assert done.finish_reason == "stop"
    assert set(json.loads(text)) == {"a"}
    assert len(text) > 20


def test_ticks_of_runs_are_the_speed_of_their_tokens() -> None:
    clock = Clock()
    speed = Speed()
    budget = TimeBudget(100, speed, clock)
    budget.tick(5)
    clock.now += 1
    budget.tick()
    assert speed.token_s == pytest.approx(0.2)
    assert budget.tokens_per_s == pytest.approx(5)
