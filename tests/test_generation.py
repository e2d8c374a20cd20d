"""Chunks, kept prefixes and abandoned requests change how much is computed, never what."""

import itertools
import random

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_llm.engine.generation import ModelRunner
from tests.fakes import GROUPS, FakeModel, Groups

PROMPT = [random.Random(1).randrange(260) for _ in range(150)]
DECODE_ONLY: Groups = ((1, 255),)


def prefill(runner: ModelRunner, prompt: list[int]) -> NDArray[np.float32]:
    *others, logits = runner.prefill(prompt)
    assert others == [None] * len(others)
    assert logits is not None
    assert logits.dtype == np.float32
    return logits


def complete(runner: ModelRunner, prompt: list[int], num_tokens: int) -> list[int]:
    """Return the greedy completion."""
    token_ids = [int(prefill(runner, prompt).argmax())]
    while len(token_ids) < num_tokens:
        token_ids.append(int(runner.decode(token_ids[-1]).argmax()))
    return token_ids


def check_like_new(runner: ModelRunner, prompt: list[int], groups: Groups = GROUPS) -> None:
    """A runner with a past says the same as one without."""
    new = FakeModel(groups).runner
    assert np.allclose(prefill(runner, prompt), prefill(new, prompt), atol=1e-4)
    assert complete(runner, prompt, 8) == complete(new, prompt, 8)


@pytest.mark.parametrize("num_tokens", [1, 2, 15, 16, 17, 127, 128, 129, 150])
@pytest.mark.parametrize(
    "groups",
    [
        ((1, 255), (16, 255)),
        ((1, 255), (128, 255)),
        ((1, 255), (16, 0), (16, 64), (16, 255)),
        ((1, 255), (128, 0), (128, 128)),
        ((1, 255), (7, 255), (50, 255)),
        GROUPS,
    ],
    ids=lambda groups: "-".join(f"{chunk}+{history}" for chunk, history in groups),
)
def test_chunk_lengths_do_not_change_the_tokens(groups: Groups, num_tokens: int) -> None:
    prompt = PROMPT[:num_tokens]
    one_by_one = FakeModel(DECODE_ONLY).runner
    chunked = FakeModel(groups).runner
    expected = prefill(one_by_one, prompt)
    assert np.allclose(prefill(chunked, prompt), expected, atol=1e-4)
    assert complete(chunked, prompt, 12) == complete(FakeModel(DECODE_ONLY).runner, prompt, 12)


def test_the_vendors_dummy_row_is_not_history() -> None:
    runner = FakeModel(GROUPS, dummy_row=True).runner
    check_like_new(runner, PROMPT)


def test_a_decode_only_model_prefills_token_by_token() -> None:
    model = FakeModel(DECODE_ONLY)
    prefill(model.runner, PROMPT[:9])
    assert model.take_calls() == [(1, 255)] * 9


def test_logits_come_once_for_a_prompt() -> None:
    model = FakeModel()
    steps = list(model.runner.prefill(PROMPT))
    assert [step is None for step in steps] == [True, True, False]
    assert len(model.post.calls) == 1


@pytest.mark.parametrize("kept", [0, 1, 15, 16, 100, 128, 149])
def test_a_kept_prefix_does_not_change_the_tokens(kept: int) -> None:
    runner = FakeModel().runner
    complete(runner, [*PROMPT[:kept], *reversed(PROMPT[:80])], 4)
    check_like_new(runner, PROMPT)


def test_a_shared_prefix_is_not_computed_again() -> None:
    model = FakeModel()
    prefill(model.runner, PROMPT)
    model.take_calls()
    other = [*PROMPT[:140], 7, 8, 9]
    assert other[140] != PROMPT[140]
    assert model.runner.shared_prefix_len(other) == 140
    prefill(model.runner, other)
    assert model.take_calls() == [(16, 255)]  # three tokens, in one run


def test_a_prefix_is_kept_to_the_token() -> None:
    model = FakeModel()
    prefill(model.runner, PROMPT)
    for kept in (149, 133, 64, 17, 1):
        changed = [*PROMPT[:kept], (PROMPT[kept] + 1) % 260]
        assert model.runner.shared_prefix_len(changed) == kept
        model.take_calls()
        check_like_new(model.runner, changed)
        assert model.take_calls()[0] == (1, 255)  # one new token is one decode


def test_the_answer_is_part_of_the_prefix_of_the_next_turn() -> None:
    model = FakeModel()
    answer = complete(model.runner, PROMPT, 6)
    conversation = [*PROMPT, *answer, 1, 2, 3]
    # The last token of an answer is sampled, but not computed.
    assert model.runner.shared_prefix_len(conversation) == len(PROMPT) + len(answer) - 1
    check_like_new(model.runner, conversation)


def test_the_same_prompt_again_computes_its_last_token_only() -> None:
    model = FakeModel()
    first = prefill(model.runner, PROMPT)
    model.take_calls()
    assert np.allclose(prefill(model.runner, PROMPT), first, atol=1e-4)
    assert model.take_calls() == [(1, 255)]


def test_a_shorter_prompt_after_a_longer_one() -> None:
    model = FakeModel()
    prefill(model.runner, PROMPT)
    model.take_calls()
    prefill(model.runner, PROMPT[:40])
    assert model.take_calls() == [(1, 255)]
    check_like_new(model.runner, PROMPT[:40])


def test_a_prompt_given_up_in_the_middle_leaves_no_trace() -> None:
    model = FakeModel()
    complete(model.runner, PROMPT[:30], 3)
    other = [*PROMPT[:20], *reversed(PROMPT)]
    steps = iter(model.runner.prefill(other))
    assert next(steps) is None
    check_like_new(model.runner, PROMPT)


def test_what_was_computed_before_giving_up_is_kept() -> None:
    model = FakeModel()
    assert next(iter(model.runner.prefill(PROMPT))) is None
    assert model.runner.shared_prefix_len(PROMPT) == 128
    check_like_new(model.runner, PROMPT)


def test_an_answer_given_up_in_the_middle_leaves_no_trace() -> None:
    runner = FakeModel().runner
    complete(runner, PROMPT[:100], 5)
    check_like_new(runner, PROMPT)
    check_like_new(runner, PROMPT[:100])


@pytest.mark.parametrize(("layer", "call"), list(itertools.product([0, 1], [0, 1, 2, 4])))
def test_a_session_that_raises_half_way_leaves_no_trace(layer: int, call: int) -> None:
    model = FakeModel()
    complete(model.runner, [*PROMPT[:60], *reversed(PROMPT[:80])], 3)
    model.layers[layer].fails_at = call
    with pytest.raises(RuntimeError, match="the device is gone"):
        complete(model.runner, PROMPT, 5)
    assert model.runner.shared_prefix_len(PROMPT) <= 149
    check_like_new(model.runner, PROMPT)


def test_logits_that_fail_leave_no_trace() -> None:
    model = FakeModel()
    model.post.fails_at = 0
    with pytest.raises(RuntimeError):
        prefill(model.runner, PROMPT)
    check_like_new(model.runner, PROMPT)


def test_many_conversations_in_any_order_are_like_new_ones() -> None:
    dice = random.Random(5)
    runner = FakeModel().runner
    prompts = [PROMPT[:120], PROMPT[:60] + PROMPT[:60], PROMPT[60:], PROMPT[:17], PROMPT[:1]]
    expected = {id(prompt): complete(FakeModel().runner, prompt, 5) for prompt in prompts}
    for _ in range(25):
        prompt = dice.choice(prompts)
        if dice.random() < 0.3:
            next(iter(runner.prefill(prompt)))
        else:
            assert complete(runner, prompt, 5) == expected[id(prompt)]


def test_the_context_is_used_to_its_last_position() -> None:
    groups = ((1, 63), (16, 0), (16, 32), (16, 63))
    context = PROMPT[:64]
    at_once, one_by_one = FakeModel(groups).runner, FakeModel(((1, 63),)).runner
    assert np.allclose(prefill(at_once, context), prefill(one_by_one, context), atol=1e-4)
    by_decode = FakeModel(groups).runner
    prefill(by_decode, context[:-1])
    assert np.allclose(by_decode.decode(context[-1]), prefill(one_by_one, context), atol=1e-4)
    for runner in (at_once, by_decode):  # the row that had no place is not missed
        check_like_new(runner, context[:50], groups)
        check_like_new(runner, context, groups)


@pytest.mark.parametrize(
    ("start", "num_tokens", "shape", "taken"),
    [
        (0, 1, (1, 255), 1),  # one token is a decode
        (0, 2, (1, 255), 1),  # two decodes cost less than a padded chunk
        (0, 3, (16, 0), 3),
        (0, 16, (16, 0), 16),
        (0, 17, (16, 0), 16),  # two short chunks cost less than a long one
        (0, 80, (16, 0), 16),
        (0, 81, (128, 0), 81),
        (0, 128, (128, 0), 128),
        (0, 129, (128, 0), 128),  # none holds them: the longest
        (1, 5, (16, 255), 5),  # with the smallest history that reaches back
        (1, 100, (128, 128), 100),
        (128, 100, (128, 128), 100),
        (129, 100, (128, 255), 100),
        (255, 1, (1, 255), 1),
    ],
)
def test_the_group_that_costs_least_is_chosen(
    start: int, num_tokens: int, shape: tuple[int, int], taken: int
) -> None:
    model = FakeModel()
    prompt = [*PROMPT, *PROMPT][: start + num_tokens]
    if start:
        list(model.runner.prefill(prompt[:start]))
    model.take_calls()
    steps = model.runner.prefill(prompt)
    next(iter(steps))
    assert model.take_calls() == [shape]
    assert len(model.runner.cached_ids) == start + taken


def test_a_chunk_without_enough_history_is_not_used() -> None:
    model = FakeModel(((1, 255), (128, 0), (128, 128), (16, 64)))
    list(model.runner.prefill(PROMPT))
    # After 128 only the long chunk and decode reach back to the beginning.
    assert model.take_calls() == [(128, 0), (128, 128)]
    prompt = [*PROMPT, *PROMPT[:10]]
    list(model.runner.prefill(prompt))
    assert model.take_calls() == [(1, 255)] * 10
    check_like_new(model.runner, prompt)


def test_a_probe_leaves_no_trace() -> None:
    runner = FakeModel(GROUPS).runner
    runner.probe()  # before there is any row
    complete(runner, PROMPT, 5)
    cached = list(runner.cached_ids)
    runner.probe()
    assert runner.cached_ids == cached
    assert runner.shared_prefix_len([*cached, 1]) == len(cached)
    check_like_new(runner, PROMPT)
    longest = [number % 250 for number in range(255)]
    prefill(runner, longest)
    assert len(runner.cached_ids) == 255
    runner.probe()  # where there is no room for one more
    check_like_new(runner, longest[:200])
