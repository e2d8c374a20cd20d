"""What an engine does in how much time: prompts, tokens, sentences, and an answer in 3 s.

All of it goes through the engine as requests do, so it is what a visitor waits for: template,
tokenizer and the way to the worker are in it, the broker is not.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from statistics import median, median_low, quantiles

from edge_llm.bench.asking import Answer, ask
from edge_llm.bench.plan import Plan
from edge_llm.bench.report import Budget, Decode, FirstSentence, Prefill
from edge_llm.engine import Engine
from edge_llm.errors import EngineFailedError, ExpiredError
from edge_llm.protocol import ChatRequest, Usage
from edge_llm.text import SentenceSplitter

__all__ = [
    "BUDGET_S",
    "measure_budget",
    "measure_decode",
    "measure_first_sentence",
    "measure_prefill",
]

Say = Callable[[str], None]
"""Told what is being measured."""

BUDGET_S = 3.0
ROOM = 16
"""Tokens that a context must have beside a prompt: the template's, if the estimate is a bit off."""
TEXT = "the sea is wide and the night is long and we talk about the stars while it rains"
WORDS = TEXT.split()
SAMPLE_WORDS = (20, 60)
"""Prompts of so many words tell how many tokens a word has, and how many the template."""
STORIES = (
    "Tell me a long story about the sea.",
    "Tell me a long story about a lighthouse and its keeper.",
    "What do you see at night, when all visitors have gone?",
    "Explain to a child where the rain comes from.",
    "Tell me about the moon, in many sentences.",
    "Tell me a long story about a fox in a city.",
)
FOR_FIRST_SENTENCE = (
    "Who are you, and what do you do here all day?",
    "How does it feel to be asked something by a stranger?",
    "Why is the sky blue in the morning and black at night?",
)
FOR_BUDGET = (
    "Describe this room to somebody who can't see it.",
    "Give me some good advice for the journey home.",
    "Once there was a river that did not know where to go. How did that end?",
)
"""Asked once each, so that nothing of them is in the KV cache yet, as with a visitor's."""
MOST_ANSWERS = 40
"""Of a model that says a word at a time."""


class _Prompts:
    """Prompts of a wanted length, each other than all before it from its first word on."""

    def __init__(self) -> None:
        self._number = 0
        self._per_word, self._rest = 1.0, 0.0

    def make(self, num_words: int) -> ChatRequest:
        """Make one of so many words; it is answered by one token."""
        self._number += 1
        words = [WORDS[n % len(WORDS)] for n in range(num_words)]
        text = f"{self._number * 7919} {' '.join(words)}."
        return ChatRequest(prompt=text, max_tokens=1, seed=1)

    async def learn(self, engine: Engine) -> None:
        """Learn from two samples how long a word is; the tokenizer is elsewhere."""
        few, many = SAMPLE_WORDS
        counts = [_usage(await ask(engine, self.make(n))).prompt_tokens for n in SAMPLE_WORDS]
        if counts[1] <= counts[0]:
            raise EngineFailedError(
                "the engine does not say how long prompts are, so how fast they are computed can't "
                "be measured"
            )
        self._per_word = (counts[1] - counts[0]) / (many - few)
        self._rest = counts[0] - few * self._per_word

    def of_length(self, num_tokens: int) -> ChatRequest:
        """Make one of about so many tokens."""
        return self.make(max(1, round((num_tokens - self._rest) / self._per_word)))


async def measure_prefill(
    engine: Engine, plan: Plan, context_len: int, say: Say
) -> tuple[tuple[Prefill, ...], tuple[int, ...]]:
    """Measure how fast prompts are computed; return that, and lengths that time was too short for.

    Args:
        engine: idle.
        plan: which lengths, and how often.
        context_len: longer ones are left out.
        say: told what comes.

    Raises:
        EngineFailedError: it does not count tokens.
    """
    prompts, begin = _Prompts(), time.monotonic()
    await prompts.learn(engine)
    measured: list[Prefill] = []
    lengths = [n for n in plan.lengths if n + ROOM <= context_len] or [context_len // 2]
    for index, length in enumerate(lengths):
        if measured and time.monotonic() - begin > plan.prefill_s:
            return tuple(measured), tuple(lengths[index:])
        answers = []
        for number in range(plan.rounds):
            say(f"prompt of {length} tokens, {number + 1} of {plan.rounds}")
            answers.append(await ask(engine, prompts.of_length(length)))
            if time.monotonic() - begin > plan.prefill_s:
                break
        measured.append(_prefill(length, answers))
    return tuple(measured), ()


def _prefill(length: int, answers: list[Answer]) -> Prefill:
    usage, ttft_s = _usage(answers[-1]), median(answer.ttft_s for answer in answers)
    return Prefill(
        length=length,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        ttft_s=ttft_s,
        tokens_per_s=(usage.prompt_tokens - usage.cached_tokens) / ttft_s,
        rounds=len(answers),
    )


async def measure_decode(engine: Engine, plan: Plan, say: Say) -> Decode:
    """Measure the tokens after the first one, over as many answers as it takes.

    Raises:
        EngineFailedError: no answer had two tokens.
    """
    begin, tokens, spent_s = time.monotonic(), 0, 0.0
    steps: list[float] = []
    num_pieces = 0
    for number in range(MOST_ANSWERS):
        left, left_s = plan.decode_tokens - tokens, plan.decode_s - (time.monotonic() - begin)
        if left <= 0 or left_s <= 0:
            break
        say(f"decoding, {tokens} of {plan.decode_tokens} tokens")
        # The first token is prefill's.
        request = _request(STORIES, number, max_tokens=left + 1)
        answer = await ask(engine, request, partial(_is_over, left_s))
        times = [at for at, _ in answer.pieces]
        num_pieces += len(times)
        steps += [later - earlier for earlier, later in pairwise(times)]
        if answer.num_tokens > 1:
            tokens += answer.num_tokens - 1
            spent_s += answer.took_s - answer.ttft_s
    if not spent_s or len(steps) < 2:
        raise EngineFailedError("the model said hardly a word, so its speed can't be measured")
    ms = [1e3 * step for step in steps]
    return Decode(
        tokens=tokens,
        tokens_per_s=tokens / spent_s,
        token_ms_p50=median(ms),
        token_ms_p95=quantiles(ms, n=20, method="inclusive")[-1],
        pieces=num_pieces,
    )


def _is_over(limit_s: float, answer: Answer) -> bool:
    return answer.took_s > limit_s


async def measure_first_sentence(engine: Engine, plan: Plan, say: Say) -> FirstSentence:
    """Measure when the first sentence is whole, as ``stream: "sentence"`` says it."""
    measured = []
    for number in range(plan.rounds):
        say(f"first sentence, {number + 1} of {plan.rounds}")
        request = _request(FOR_FIRST_SENTENCE, number)
        answer = await ask(engine, request, lambda answer: bool(_sentences(answer)))
        # Of an answer without the end of a sentence all of it is one.
        said = "".join(text for _, text in answer.pieces)
        sentence = (_sentences(answer) or [said])[0].strip()
        measured.append((answer.took_s, answer.ttft_s, len(sentence)))
    sentence_s, ttft_s, chars = sorted(measured)[(len(measured) - 1) // 2]
    return FirstSentence(ttft_s=ttft_s, sentence_s=sentence_s, chars=chars, rounds=plan.rounds)


def _sentences(answer: Answer) -> list[str]:
    splitter = SentenceSplitter()
    return [sentence for _, text in answer.pieces for sentence in splitter.add(text)]


async def measure_budget(
    engine: Engine, plan: Plan, decode: Decode, first: FirstSentence, say: Say
) -> Budget:
    """Measure what an answer says that must be over in 3 s."""
    answers = []
    for number in range(plan.rounds):
        say(f"an answer in {BUDGET_S:g} s, {number + 1} of {plan.rounds}")
        answers.append(await _answer_in_time(engine, number))
    num_tokens = median_low(answer.num_tokens for answer in answers)
    answer = next(answer for answer in answers if answer.num_tokens == num_tokens)
    text = "".join(text for _, text in answer.pieces)
    room_s = BUDGET_S - first.ttft_s
    return Budget(
        budget_s=BUDGET_S,
        tokens=num_tokens,
        words=len(text.split()),
        sentences=_num_sentences(text),
        took_s=answer.took_s,
        finish_reason=answer.done.finish_reason if answer.done else "expired",
        tokens_at_speed=1 + int(room_s * decode.tokens_per_s) if room_s > 0 else 0,
        rounds=plan.rounds,
    )


async def _answer_in_time(engine: Engine, number: int) -> Answer:
    request = _request(FOR_BUDGET, number).model_copy(update={"time_budget_s": BUDGET_S})
    begin = time.perf_counter()
    try:
        return await ask(engine, request)
    except ExpiredError:
        return Answer(took_s=time.perf_counter() - begin)


def _num_sentences(text: str) -> int:
    # Only ends of sentences count, and not where to breathe in a long one.
    splitter = SentenceSplitter(min_chars=1, max_chars=len(text) + 1)
    sentences = [*splitter.add(text), *splitter.finish()]
    return sum(bool(sentence.strip()) for sentence in sentences)


def _request(prompts: Sequence[str], number: int, *, max_tokens: int | None = None) -> ChatRequest:
    return ChatRequest(prompt=prompts[number % len(prompts)], max_tokens=max_tokens, seed=number)


def _usage(answer: Answer) -> Usage:
    return answer.done.usage if answer.done else Usage()
