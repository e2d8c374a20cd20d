"""The built-in model keeps what its card promises; measured through the engine, on the CPU."""

import json
from pathlib import Path
from typing import Any

import pytest

from edge_llm.engine.loading import load_engine
from edge_llm.engine.local import LocalEngine
from edge_llm.protocol import ChatRequest, Delta, Done, Message
from edge_llm.settings import EngineSettings
from edge_llm.tiny import MODEL_DIR
from edge_llm.tiny.grammar import phrasing_key
from edge_llm.tiny.recipe import training_dialogues

DATA = Path(__file__).parent / "data"


def read_cases(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]


WITHHELD = read_cases("tiny_withheld")
FAR = read_cases("tiny_held_out")
MAX_TOKENS = 120
NUM_SAMPLES = 200


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return load_engine(EngineSettings())


def answer(engine: LocalEngine, messages: list[dict[str, str]], **how: Any) -> tuple[str, Done]:
    request = ChatRequest(
        messages=tuple(Message.model_validate(message) for message in messages),
        max_tokens=MAX_TOKENS,
        **how,
    )
    events = list(engine.generate(request))
    text = "".join(event.text for event in events if isinstance(event, Delta))
    done = events[-1]
    assert isinstance(done, Done)
    return text, done


def has_all(text: str, must: list[list[str]]) -> bool:
    return all(any(word.lower() in text.lower() for word in words) for words in must)


def test_no_question_is_in_the_training_text() -> None:
    trained = {
        phrasing_key(message["content"])
        for dialogue in training_dialogues()
        for message in dialogue
        if message["role"] == "user"
    }
    assert len(trained) > 100_000
    for cases in (WITHHELD, FAR):
        asked = {phrasing_key(case["messages"][-1]["content"]) for case in cases}
        assert len(cases) == 100
        assert not asked & trained


def test_nine_of_ten_untaught_questions_get_what_they_must(engine: LocalEngine) -> None:
    missed = []
    for case in FAR:
        text, _ = answer(engine, case["messages"], temperature=0.0)
        if not has_all(text, case["must"]):
            missed.append((case["id"], text))
    assert len(missed) <= 10, missed


def test_sampled_replies_end_by_themselves_in_whole_characters(engine: LocalEngine) -> None:
    ended = 0
    for number in range(NUM_SAMPLES):
        messages = (FAR if number % 2 else WITHHELD)[number // 2]["messages"]
        text, done = answer(
            engine, messages, temperature=0.9, top_k=0, top_p=1.0, min_p=0.0, seed=number
        )
        ended += done.finish_reason == "stop"
        assert "\ufffd" not in text
    assert ended >= 0.95 * NUM_SAMPLES


@pytest.mark.parametrize("question", ["What are you?", "Which model is this?"])
def test_asked_what_it_is_it_says_so(engine: LocalEngine, question: str) -> None:
    text, _ = answer(engine, [{"role": "user", "content": question}], temperature=0.0)
    assert "built-in" in text


def test_it_can_think_first_and_keeps_that_apart(engine: LocalEngine) -> None:
    request = ChatRequest(prompt="What is 4 plus 5?", enable_thinking=True, temperature=0.0)
    deltas = [event for event in engine.generate(request) if isinstance(event, Delta)]
    text = "".join(delta.text for delta in deltas)
    assert "9" in text or "nine" in text.lower()
    assert "".join(delta.reasoning for delta in deltas)
    assert "think>" not in text


def test_it_is_small_and_has_a_card() -> None:
    size_bytes = sum(file.stat().st_size for file in MODEL_DIR.rglob("*") if file.is_file())
    assert size_bytes <= 12 * 2**20
    assert "Apache-2.0" in (MODEL_DIR.parent / "README.md").read_text()
