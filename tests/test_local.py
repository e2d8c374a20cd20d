"""A model in this process: what a request turns into, step by step."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import pytest
from numpy.typing import NDArray

from edge_llm.engine.local import LocalEngine
from edge_llm.errors import ContextOverflowError, InvalidRequestError
from edge_llm.protocol import ChatRequest, Delta, Done, Event, Message, Started
from tests.fakes import IM_END, THINK, BytePrompter, FakeModel, make_local_engine

PROMPT = "Tell me about the fox, the moon and the sea."


def ask(prompt: str | None = PROMPT, **fields: Any) -> ChatRequest:
    defaults: dict[str, Any] = {"max_tokens": 24, "logit_bias": {IM_END: -100}}
    return ChatRequest(prompt=prompt, **defaults | fields)


def run(engine: LocalEngine, request: ChatRequest, resume: Sequence[int] = ()) -> list[Event]:
    events = list(engine.generate(request, resume))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Done)
    assert all(isinstance(event, Delta) for event in events[1:-1])
    return events


def text(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def token_ids(events: Sequence[Event]) -> list[int]:
    return [n for event in events if isinstance(event, Delta) for n in event.token_ids]


def done(events: Sequence[Event]) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


class Said(FakeModel):
    """A model that says set tokens, whatever it is asked."""

    def __init__(self, token_ids: Sequence[int], strength: float = 50) -> None:
        super().__init__()
        self.said = list(token_ids)
        compute = self.post.run

        def say(feed: Mapping[str, NDArray[Any]], group: int = 0) -> dict[str, NDArray[Any]]:
            outputs = compute(feed, group)
            for scores in outputs.values():
                scores[:] = 0
                scores[..., self.said.pop(0)] = strength
            return outputs

        self.post.run = say  # type: ignore[method-assign]


def said(token_ids: Sequence[int], **fields: Any) -> list[Event]:
    return run(make_local_engine(Said(token_ids), temperature=0.0), ask(logit_bias=None, **fields))


def test_every_token_is_one_step() -> None:
    events = run(make_local_engine(temperature=0.0), ask(max_tokens=10))
    steps = [event for event in events if isinstance(event, Delta)]
    sizes = [len(step.token_ids) for step in steps]
    assert sizes == sorted(sizes)  # prefill, then
    assert sizes[-10:] == [1] * 10
    assert sum(sizes) == 10


def test_each_prefill_chunk_is_a_step_that_can_be_the_last() -> None:
    engine = make_local_engine(FakeModel(((1, 255), (16, 255))))
    events = run(engine, ask(max_tokens=1))
    num_chunks = -(-done(events).usage.prompt_tokens // 16)
    assert events[1:num_chunks] == [Delta()] * (num_chunks - 1)


def test_the_model_ends_the_answer() -> None:
    events = said([*b"Good night.", IM_END])
    assert text(events) == "Good night."
    assert done(events).finish_reason == "stop"
    assert done(events).usage.completion_tokens == 12


def test_max_tokens_ends_the_answer() -> None:
    events = said(b"Good night.", max_tokens=4)
    assert text(events) == "Good"
    assert done(events).finish_reason == "length"
    assert done(events).usage.completion_tokens == 4


def test_max_tokens_of_the_settings_hold_where_a_request_says_nothing() -> None:
    engine = make_local_engine(Said(b"Good night."), temperature=0.0, max_tokens=4)
    assert text(run(engine, ask(max_tokens=None, logit_bias=None))) == "Good"


def test_max_bytes_end_the_answer_with_one_token_too_many() -> None:
    text_16 = b"Sixteen letters."
    assert text(said([*text_16, *b" More."], max_bytes=16)) == "Sixteen letters. "
    assert done(said([*text_16, *b" More."], max_bytes=16)).finish_reason == "length"
    assert text(said([*text_16, IM_END], max_bytes=16)) == "Sixteen letters."
    assert done(said([*text_16, IM_END], max_bytes=16)).finish_reason == "stop"


def test_max_bytes_are_bytes_of_the_answer() -> None:
    greek = "αβγδεζηθ ικλ".encode()
    assert text(said(greek, max_bytes=16)) == "αβγδεζηθ "
    reasoning = [THINK, *b"a long thought about it", THINK + 1, *b"Yes, of course it is."]
    events = said(reasoning, max_bytes=16, max_tokens=60, enable_thinking=True)
    assert text(events) == "Yes, of course it"


@pytest.mark.parametrize("cut", [5, 16, 17])
def test_max_bytes_hold_across_a_resume(cut: int) -> None:
    whole = b"Sixteen letters. More."
    engine = make_local_engine(Said(whole[cut:]), temperature=0.0)
    events = run(engine, ask(logit_bias=None, max_bytes=16), list(whole[:cut]))
    assert text(events) == whole[cut:17].decode()
    assert done(events).finish_reason == "length"


def test_a_stop_string_ends_the_answer_at_once() -> None:
    events = said(b"Good night. Sleep well.", stop=["night", "Sleep"])
    assert text(events) == "Good "
    assert done(events).finish_reason == "stop"
    assert done(events).usage.completion_tokens == 10


def test_text_held_for_a_stop_string_comes_at_the_end() -> None:
    assert text(said(b"one EN", max_tokens=6, stop=["END"])) == "one EN"


def test_reasoning_comes_apart() -> None:
    engine = make_local_engine(Said([THINK, *b"hm", THINK + 1, *b"yes", IM_END]), temperature=0.0)
    events = run(engine, ask(enable_thinking=True, logit_bias=None))
    assert text(events) == "yes"
    assert "".join(e.reasoning for e in events if isinstance(e, Delta)) == "hm"


class ThinkingPrompter(BytePrompter):
    """A template that begins the reasoning itself, as those of Qwen3.5 do."""

    def render(self, conversation: Sequence[Message], **kwargs: Any) -> list[int]:
        return [*super().render(conversation, enable_thinking=True), THINK, *b"\n"]


@pytest.mark.parametrize("num_tokens", [0, 1, 4])
def test_a_thinking_budget_ends_reasoning_that_the_prompt_began(num_tokens: int) -> None:
    engine = make_local_engine(prompter=ThinkingPrompter(), temperature=0.0)
    bias = dict.fromkeys((IM_END, THINK, THINK + 1), -100.0)  # it would never end by itself
    events = run(engine, ask(thinking_budget=num_tokens, logit_bias=bias))
    said = token_ids(events)
    newline = [*b"\n"][:num_tokens]
    assert said.index(THINK + 1) == num_tokens
    assert said[num_tokens - len(newline) : num_tokens + 3] == [*newline, THINK + 1, *b"\n\n"]
    assert done(events).usage.reasoning_tokens == num_tokens
    assert done(events).usage.completion_tokens == 24
    for cut in range(1, 12):
        given = [n for e in events[1:][:cut] if isinstance(e, Delta) for n in e.token_ids]
        rest = run(engine, ask(thinking_budget=num_tokens, logit_bias=bias), given)
        assert [*given, *token_ids(rest)] == said


def test_the_context_holds_prompt_and_answer() -> None:
    engine = make_local_engine(FakeModel(((1, 95), (16, 95))), temperature=0.0)
    events = run(engine, ask(max_tokens=1000))
    usage = done(events).usage
    assert usage.prompt_tokens + usage.completion_tokens == engine.info.context_len == 96
    assert done(events).finish_reason == "length"


def test_a_prompt_may_leave_room_for_one_token() -> None:
    engine = make_local_engine(FakeModel(((1, 95), (16, 95))))
    frame = len(BytePrompter().render([Message(role="user", content="")], enable_thinking=False))
    for room, prompt in ((1, "x" * (95 - frame)), (0, "x" * (96 - frame))):
        if room:
            assert done(run(engine, ask(prompt))).usage.completion_tokens == 1
        else:
            with pytest.raises(ContextOverflowError, match=r"96 tokens.*holds 96") as error:
                run(engine, ask(prompt))
            assert error.value.param == "prompt"


def test_an_overflow_names_messages_where_they_were_given() -> None:
    turns = (Message(role="user", content="x" * 300),)
    with pytest.raises(ContextOverflowError) as error:
        run(make_local_engine(), ChatRequest(messages=turns))
    assert error.value.param == "messages"


def test_a_conversation_goes_on_from_the_kept_prefix() -> None:
    engine = make_local_engine(temperature=0.0)
    first = run(engine, ask())
    assert done(first).usage.cached_tokens == 0
    turns = (
        Message(role="user", content=PROMPT),
        Message(role="assistant", content="Yes."),
        Message(role="user", content="And then?"),
    )
    second = run(engine, ask(prompt=None, messages=turns))
    shared = len(BytePrompter().render(turns[:1], enable_thinking=True))
    assert done(second).usage.cached_tokens == shared
    new = make_local_engine(temperature=0.0)
    assert token_ids(run(new, ask(prompt=None, messages=turns))) == token_ids(second)


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
def test_a_request_given_up_leaves_no_trace(steps: int) -> None:
    groups = ((1, 255), (16, 255))
    engine = make_local_engine(FakeModel(groups), temperature=0.0)
    with closing(engine.generate(ask("x" * 64))) as events:
        for _ in range(steps):
            next(events)
    expected = run(make_local_engine(FakeModel(groups), temperature=0.0), ask())
    assert token_ids(run(engine, ask())) == token_ids(expected)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("cut", [0, 1, 11, 23, 24])
def test_a_request_goes_on_where_another_process_ended(cut: int, temperature: float) -> None:
    request = ask(temperature=temperature, seed=11, repeat_penalty=1.2, frequency_penalty=0.3)
    whole = run(make_local_engine(), request)
    resumed = run(make_local_engine(), request, token_ids(whole)[:cut])
    assert token_ids(resumed) == token_ids(whole)[cut:]
    steps = [event for event in whole if isinstance(event, Delta) and event.token_ids]
    assert text(steps[:cut]) + text(resumed) == text(whole)
    assert done(resumed).usage == done(whole).usage
    assert done(resumed).finish_reason == done(whole).finish_reason


def test_a_request_that_was_already_over_ends_at_once() -> None:
    model = FakeModel()
    events = run(make_local_engine(model), ask(stop=["."]), [*b"Good night."])
    assert text(events) == ""
    assert done(events).finish_reason == "stop"
    assert done(events).usage.completion_tokens == 11
    assert model.take_calls() == []


def test_the_same_seed_gives_the_same_text() -> None:
    engine = make_local_engine(temperature=1.0)
    first = run(engine, ask(seed=5))
    assert token_ids(run(engine, ask(seed=5))) == token_ids(first)
    assert token_ids(run(engine, ask(seed=6))) != token_ids(first)


def test_logits_past_the_tokenizer_are_never_chosen() -> None:
    engine = make_local_engine(temperature=2.0)
    assert max(token_ids(run(engine, ask(max_tokens=150, seed=1)))) < BytePrompter.VOCAB_SIZE


def test_logit_bias_of_a_token_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="no token 260; its ids end at 259") as error:
        run(make_local_engine(), ask(logit_bias={260: 1}))
    assert error.value.param == "logit_bias"


def prompts_of(engine: LocalEngine, request: ChatRequest) -> str:
    """Return what the model was asked, as text; control tokens look like their bytes."""
    run(engine, request)
    ids = engine.runner.cached_ids
    return bytes(token_id for token_id in ids if token_id < 256).decode(errors="replace")


def test_the_system_prompt_of_the_settings_goes_first() -> None:
    engine = make_local_engine(system_prompt="You are a fox.")
    assert prompts_of(engine, ask("Hi")).startswith("system\nYou are a fox.\nuser\nHi\n")


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_turn_replaces_the_settings_system_prompt(role: Any) -> None:
    engine = make_local_engine(system_prompt="You are a fox.")
    turns = (Message(role=role, content="Be a bear."), Message(role="user", content="Hi"))
    assert "fox" not in prompts_of(engine, ask(prompt=None, messages=turns))


@pytest.mark.parametrize(
    ("config", "settings", "fields", "expected"),
    [
        ({}, {}, {}, (1.0, 0, 1.0)),
        ({"do_sample": False}, {}, {}, (0.0, 0, 1.0)),
        ({"temperature": 0.6, "top_k": 20, "top_p": 0.95}, {}, {}, (0.6, 20, 0.95)),
        ({"temperature": 0.6, "top_k": 20}, {"temperature": 0.0, "top_k": 5}, {}, (0.0, 5, 1.0)),
        ({"temperature": 0.6}, {"temperature": 0.3}, {"temperature": 0.0}, (0.0, 0, 1.0)),
        ({"top_k": 20}, {"top_k": 5}, {"top_k": 0, "top_p": 0.5}, (1.0, 0, 0.5)),
    ],
)
def test_the_request_wins_over_the_settings_and_those_over_the_model(
    config: dict[str, Any],
    settings: dict[str, Any],
    fields: dict[str, Any],
    expected: tuple[float, int, float],
) -> None:
    engine = make_local_engine(prompter=BytePrompter(config), **settings)
    params = engine._sampling(ask(**fields))
    assert (params.temperature, params.top_k, params.top_p) == expected


def test_a_failure_in_the_middle_leaves_no_trace() -> None:
    model = FakeModel()
    engine = make_local_engine(model, temperature=0.0)
    model.layers[1].fails_at = 3
    with pytest.raises(RuntimeError):
        run(engine, ask())
    assert token_ids(run(engine, ask())) == token_ids(
        run(make_local_engine(temperature=0.0), ask())
    )
