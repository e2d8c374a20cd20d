"""LocalEngine: a model in this process, from a conversation to pieces of text.

Only the worker process makes one. It is not asynchronous: each item that ``generate`` yields is
one step, a prefill chunk or a token, and between two of them a request can be given up.
"""

import re
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from numpy.typing import NDArray

from edge_llm.engine.answer import Answer
from edge_llm.engine.generation import ModelRunner
from edge_llm.engine.guide import Guide, Guides
from edge_llm.engine.logprobs import Logprobs
from edge_llm.engine.prompt import Prompter
from edge_llm.engine.prompt.prompts import Prompt, Prompts
from edge_llm.engine.sampling import Sampler, SamplingParams
from edge_llm.engine.time_budget import Speed, TimeBudget
from edge_llm.engine.tool_calls import CallIds
from edge_llm.errors import InvalidRequestError
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Event,
    Message,
    ModelInfo,
    Started,
    TextFormat,
    Timing,
    TokenLogprob,
    Tool,
    Usage,
    join_tool_calls,
)
from edge_llm.settings import EngineSettings
from edge_llm.text.words import WIDE

__all__ = ["LocalEngine"]

# What a token begins with that goes on with a word or a number, where spaces set them apart.
IN_A_WORD = re.compile(rf"[^\W_{WIDE}]|['’-]")


@dataclass(frozen=True, slots=True)
class _Turn:
    """What takes part in one answer."""

    answer: Answer
    guide: Guide
    sampler: Sampler
    budget: TimeBudget | None
    logprobs: Logprobs | None


class LocalEngine:
    """A loaded model; see ``engine.loading`` for how it comes to be.

    A token's way: the prompt is made and computed, which gives logits; the guide says what must
    come, or what may, of which the sampler chooses; the answer sorts it into what is said; and it
    is computed in turn, for the next logits.

    Args:
        runner: token ids to logits.
        prompter: conversations to token ids, and the bytes of each token.
        info: what the model says of itself.
        settings: what holds where a request says nothing.
        loaded: how it was loaded, for the log.
    """

    def __init__(
        self,
        runner: ModelRunner,
        prompter: Prompter,
        info: ModelInfo,
        settings: EngineSettings,
        loaded: Mapping[str, str] | None = None,
    ) -> None:
        self.runner, self.prompter = runner, prompter
        self.info, self.settings = info, settings
        self.loaded = dict(loaded or {})
        self._prompts = Prompts(prompter, info, settings)
        self._guides = Guides(prompter)
        self.said: list[Message] = []
        """The conversation up to its latest answer."""
        self._said_tools: tuple[Tool, ...] = ()
        self.beginnings: list[list[int]] = []
        """Token ids with which conversations are known to begin."""
        self.speed = Speed()
        """Of the latest answers that had a time budget."""

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Note with what conversations begin, for ``settle``; see ``Engine.prepare``."""
        self.beginnings.clear()
        for turns in conversations:
            if conversation := self._prompts.with_system_turn(turns):
                try:
                    token_ids = self.prompter.render_history(conversation)
                except InvalidRequestError:  # the template refuses it; a request will tell
                    continue
                if 0 < len(token_ids) < self.info.context_len:
                    self.beginnings.append(token_ids)

    def settle(self) -> Iterator[None]:
        """Compute what the next requests will begin with, while nobody waits.

        That is the latest conversation first: chat templates such as Qwen3's show an earlier answer
        without its thinking block, so the rows of an answer are of no use to the next turn. Here
        they are made as it will ask for them. Then the beginnings that are to be kept ready. Each
        item is one step; stop iterating to give it up.
        """
        token_ids = self.prompter.render_history(self.said, self._said_tools) if self.said else []
        self.said.clear()
        if 0 < len(token_ids) < self.info.context_len:
            for _ in self.runner.prefill(token_ids, in_place=True):
                yield
        yield from self.runner.prepare(self.beginnings)

    def forget_conversations(self) -> None:
        """Keep no KV rows for the sake of conversations that there were."""
        self.said.clear()
        self.runner.forget_conversations()

    def probe(self) -> None:
        """Compute one token for nobody.

        Raises:
            DeviceError: the device can't.
        """
        self.runner.probe()

    def close(self) -> None:
        """Give back what the device holds."""
        self.runner.close()

    def check(self, request: ChatRequest) -> None:
        """Find out what is wrong with a request; nothing of another one in hand changes.

        Raises:
            InvalidRequestError: or one below it, as ``generate`` would.
        """
        prompt = self._prompts.make(request)
        answer = self._answer(request, prompt, None)
        self._guides.make(request, answer, enable_thinking=prompt.enable_thinking)
        self._sampling(request)

    def generate(
        self, request: ChatRequest, resume: Sequence[int] = (), arrived: float | None = None
    ) -> Generator[Event, None, None]:
        """Yield Started, then a Delta for each step (empty where no text is ready), then Done.

        Args:
            request: what to answer.
            resume: tokens of the answer that have been generated before, by an earlier process or
                this one; their text is not repeated.
            arrived: the time on the monotonic clock from which its time budget counts; else now.

        Raises:
            ContextOverflowError: the prompt leaves no room for an answer.
            ExpiredError: the time budget was over before the first word.
            UnsupportedSchemaError: the answer can't be held to its form.
            InvalidRequestError: what else only the model can find wrong.
        """
        self.said.clear()
        budget = self._budget(request, arrived)
        prompt = self._prompts.make(request)
        answer = self._answer(request, prompt, budget)
        guide = self._guides.make(request, answer, enable_thinking=prompt.enable_thinking)
        sampler = Sampler(self._sampling(request), self.prompter.vocab_size, prompt.token_ids)
        yield Started(dropped_messages=prompt.num_dropped)
        sampler.accept(resume)
        answer.add_all(resume)
        guide.accept(resume)
        token_ids = [*prompt.token_ids, *resume]
        cached = min(self.runner.shared_prefix_len(token_ids), len(prompt.token_ids))
        if not answer.is_over():
            logprobs = Logprobs(self.prompter, request.top_logprobs or 0)
            turn = _Turn(answer, guide, sampler, budget, logprobs if request.logprobs else None)
            yield from self._speak(token_ids, turn)
        rest = answer.finish()
        if rest != Delta():
            yield rest
        self._note_said(prompt, answer)
        yield Done(
            finish_reason=answer.finish_reason,
            usage=Usage(
                prompt_tokens=len(prompt.token_ids),
                cached_tokens=cached,
                completion_tokens=answer.num_tokens,
                reasoning_tokens=answer.num_reasoning_tokens,
            ),
            timing=Timing(tokens_per_s=budget.tokens_per_s if budget else None),
            dropped_messages=prompt.num_dropped,
        )

    def _note_said(self, prompt: Prompt, answer: Answer) -> None:
        calls = join_tool_calls(answer.tool_calls) or None
        last = Message(role="assistant", content=answer.text, tool_calls=calls)
        self.said[:] = [*prompt.conversation, last]
        self._said_tools = prompt.tools

    def _answer(self, request: ChatRequest, prompt: Prompt, budget: TimeBudget | None) -> Answer:
        has_format = not isinstance(request.response_format, TextFormat | None)
        return Answer(
            self.prompter,
            request.stop or (),
            prompt.token_ids,
            max_tokens=prompt.max_tokens,
            max_bytes=request.max_bytes,
            budget=budget,
            has_form=has_format or request.choices is not None,
            call_ids=CallIds(request.seed, prompt.token_ids) if prompt.tools else None,
        )

    def _budget(self, request: ChatRequest, arrived: float | None) -> TimeBudget | None:
        if request.time_budget_s is None:
            return None
        waited_s = 0.0 if arrived is None else time.monotonic() - arrived
        return TimeBudget(request.time_budget_s - waited_s, self.speed)

    def _speak(self, token_ids: Sequence[int], turn: _Turn) -> Generator[Delta, None, None]:
        answer, budget = turn.answer, turn.budget
        logits = yield from self._prefill(token_ids, answer)
        while logits is not None:
            if budget and answer.is_prose and (pressure := budget.pressure()):
                self._press_for_an_end(logits, pressure)
            run, told = yield from self._next_run(logits, turn)
            if budget:
                budget.tick(len(run))
            delta = answer.add_run(run, told)
            turn.guide.accept(delta.token_ids)
            yield delta
            num_computed = len(told) - 1 if told else 0
            logits = None
            if not answer.is_over():
                logits = yield from self._compute(run[num_computed:])

    def _next_run(
        self, logits: NDArray[Any], turn: _Turn
    ) -> Generator[Delta, None, tuple[list[int], list[TokenLogprob]]]:
        """Return what comes next, as a rule one token, and how likely that was, if it is asked.

        What is told of a token needs the logits before it, so then all but the last are computed.
        """
        raw = logits.copy() if turn.logprobs else logits
        run = turn.guide.forced()
        if run:
            turn.sampler.accept(run)
        else:
            run = turn.guide.choose(turn.sampler, logits)
        if not turn.logprobs:
            return run, []
        told = [turn.logprobs.of(run[0], raw)]
        for last, token_id in pairwise(run):
            yield Delta()
            told.append(turn.logprobs.of(token_id, self.runner.decode(last)))
        return run, told

    def _compute(self, run: Sequence[int]) -> Generator[Delta, None, NDArray[Any] | None]:
        """Return the logits after a run of tokens, as a rule after one."""
        if len(run) == 1:
            return self.runner.decode(run[0])
        for logits in self.runner.extend(run):
            if logits is not None:
                return logits
            yield Delta()
        return None

    def _press_for_an_end(self, logits: NDArray[Any], pressure: float) -> None:
        """Make the end of the sentence likelier, but not in the middle of a word."""
        likeliest = self.prompter.token_bytes[int(logits[: self.prompter.vocab_size].argmax())]
        if not IN_A_WORD.match(likeliest.decode(errors="ignore")):
            logits[self.prompter.sentence_end_ids] += pressure

    def _prefill(
        self, token_ids: Sequence[int], answer: Answer
    ) -> Generator[Delta, None, NDArray[Any] | None]:
        """Return the logits after the last token; none if the time was over before."""
        for logits in self.runner.prefill(token_ids):
            if logits is not None:
                return logits
            yield Delta()
            if answer.is_over():
                return None
        raise InvalidRequestError("the prompt has no tokens")

    def _sampling(self, request: ChatRequest) -> SamplingParams:
        ours, models = self.settings, self.prompter.generation_config
        bias = request.logit_bias or {}
        beyond = [token_id for token_id in bias if token_id >= self.prompter.vocab_size]
        if beyond:
            raise InvalidRequestError(
                f"logit_bias: the model has no token {beyond[0]}; "
                f"its ids end at {self.prompter.vocab_size - 1}",
                param="logit_bias",
            )
        if request.tool_choice == "none" and self.prompter.call_id is not None:
            bias = {**bias, self.prompter.call_id: float("-inf")}
        temperature = 1.0 if models.get("do_sample", True) else 0.0
        return SamplingParams(
            temperature=_first(
                request.temperature, ours.temperature, models.get("temperature"), temperature
            ),
            top_k=_first(request.top_k, ours.top_k, models.get("top_k"), 0),
            top_p=_first(request.top_p, ours.top_p, models.get("top_p"), 1.0),
            min_p=_first(request.min_p, ours.min_p),
            repeat_penalty=_first(request.repeat_penalty, ours.repeat_penalty),
            repeat_last_n=_first(request.repeat_last_n, ours.repeat_last_n),
            frequency_penalty=request.frequency_penalty or 0.0,
            presence_penalty=request.presence_penalty or 0.0,
            logit_bias=bias,
            seed=request.seed,
        )


def _first(*values: Any) -> Any:
    """Return the first value that was given."""
    return next((value for value in values if value is not None), None)
