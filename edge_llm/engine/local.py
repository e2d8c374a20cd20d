"""LocalEngine: a model in this process, from a conversation to pieces of text.

Only the worker process makes one. It is not asynchronous: each item that ``generate`` yields is
one step, a prefill chunk or a token, and between two of them a request can be given up.
"""

import re
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from edge_llm.engine.answer import Answer
from edge_llm.engine.generation import ModelRunner
from edge_llm.engine.overflow import Turns
from edge_llm.engine.prompt import Prompter
from edge_llm.engine.sampling import Sampler, SamplingParams
from edge_llm.engine.time_budget import Speed, TimeBudget
from edge_llm.errors import ContextOverflowError, InvalidRequestError
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Event,
    Message,
    ModelInfo,
    Started,
    Timing,
    Usage,
)
from edge_llm.settings import EngineSettings
from edge_llm.text.words import WIDE

__all__ = ["LocalEngine"]

# What a token begins with that goes on with a word or a number, where spaces set them apart.
IN_A_WORD = re.compile(rf"[^\W_{WIDE}]|['’-]")
ANSWER_SHARE = 4  # of the context, one part in so many: room that is made for an answer


@dataclass(frozen=True, slots=True)
class _Prompt:
    conversation: tuple[Message, ...]
    token_ids: list[int]
    num_dropped: int = 0


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """A loaded model; see ``engine.loading`` for how it comes to be.

    Args:
        runner: token ids to logits.
        prompter: conversations to token ids, and the bytes of each token.
        info: what the model says of itself.
        settings: what holds where a request says nothing.
    """

    runner: ModelRunner
    prompter: Prompter
    info: ModelInfo
    settings: EngineSettings
    loaded: Mapping[str, str] = field(default_factory=dict)
    """How it was loaded, for the log."""
    said: list[Message] = field(default_factory=list)
    """The conversation up to its latest answer."""
    beginnings: list[list[int]] = field(default_factory=list)
    """Token ids with which conversations are known to begin."""
    speed: Speed = field(default_factory=Speed)
    """Of the latest answers that had a time budget."""

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Note with what conversations begin, for ``settle``; see ``Engine.prepare``."""
        self.beginnings.clear()
        for turns in conversations:
            if conversation := self._with_system_turn(turns):
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
        token_ids = self.prompter.render_history(self.said) if self.said else []
        self.said.clear()
        if 0 < len(token_ids) < self.info.context_len:
            for _ in self.runner.prefill(token_ids, in_place=True):
                yield
        yield from self.runner.prepare(self.beginnings)

    def forget_conversations(self) -> None:
        """Keep no KV rows for the sake of conversations that there were."""
        self.said.clear()
        self.runner.forget_conversations()

    def close(self) -> None:
        """Give back what the device holds."""
        self.runner.close()

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
            InvalidRequestError: what only the model can find wrong.
        """
        self.said.clear()
        budget = self._budget(request, arrived)
        prompt = self._fitting_prompt(request)
        answer = self._answer(request, prompt, budget)
        sampler = Sampler(self._sampling(request), self.prompter.vocab_size, prompt.token_ids)
        yield Started()
        sampler.accept(resume)
        answer.add_all(resume)
        token_ids = [*prompt.token_ids, *resume]
        cached = min(self.runner.shared_prefix_len(token_ids), len(prompt.token_ids))
        if not answer.is_over():
            yield from self._speak(token_ids, sampler, answer, budget)
        if rest := answer.finish():
            yield Delta(text=rest)
        self.said[:] = [*prompt.conversation, Message(role="assistant", content=answer.text)]
        yield Done(
            finish_reason=answer.finish_reason,
            usage=Usage(
                prompt_tokens=len(prompt.token_ids),
                cached_tokens=cached,
                completion_tokens=answer.num_tokens,
            ),
            timing=Timing(tokens_per_s=budget.tokens_per_s if budget else None),
            dropped_messages=prompt.num_dropped,
        )

    def _answer(self, request: ChatRequest, prompt: _Prompt, budget: TimeBudget | None) -> Answer:
        return Answer(
            self.prompter,
            request.stop or (),
            prompt.token_ids,
            max_tokens=self._limit(request, len(prompt.token_ids)),
            max_bytes=request.max_bytes,
            budget=budget,
        )

    def _budget(self, request: ChatRequest, arrived: float | None) -> TimeBudget | None:
        if request.time_budget_s is None:
            return None
        waited_s = 0.0 if arrived is None else time.monotonic() - arrived
        return TimeBudget(request.time_budget_s - waited_s, self.speed)

    def _speak(
        self,
        token_ids: Sequence[int],
        sampler: Sampler,
        answer: Answer,
        budget: TimeBudget | None,
    ) -> Generator[Delta, None, None]:
        logits = yield from self._prefill(token_ids, answer)
        while logits is not None:
            if budget and (pressure := budget.pressure()):
                self._press_for_an_end(logits, pressure)
            token_id = sampler.sample(logits)
            if budget:
                budget.tick()
            yield answer.add(token_id)
            logits = None if answer.is_over() else self.runner.decode(token_id)

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

    def _fitting_prompt(self, request: ChatRequest) -> _Prompt:
        """Render the conversation, without its oldest turns if they are too many and may go."""
        conversation = self._with_system_turn(request.conversation)
        prompt = _Prompt(conversation, self._render(request, conversation))
        wanted = request.max_tokens or self.settings.max_tokens
        room = min(wanted, self.info.context_len // ANSWER_SHARE)
        most = self.info.context_len - room
        if request.overflow == "error" or len(prompt.token_ids) <= most:
            return prompt
        turns = Turns(conversation, self._count, self._frame_tokens())
        first = turns.first_kept(self.info.context_len, room)
        while first <= turns.last and len(prompt.token_ids) > most:
            kept = turns.since(first)
            dropped = len(conversation) - len(kept)
            prompt = _Prompt(kept, self._render(request, kept), dropped)
            first += 1
        return prompt

    def _count(self, text: str) -> int:
        return len(self.prompter.tokenize(text))

    def _frame_tokens(self) -> int:
        """Count what the chat template puts around a message, rounded up."""
        user, assistant = Message(role="user", content="x"), Message(role="assistant", content="x")
        one, three = (
            len(self.prompter.render(turns, enable_thinking=False))
            for turns in ((user,), (user, assistant, user))
        )
        return -(-(three - one) // 2) - self._count("x")

    def _render(self, request: ChatRequest, conversation: Sequence[Message]) -> list[int]:
        thinking = _first(request.enable_thinking, self.settings.enable_thinking)
        return self.prompter.render(conversation, enable_thinking=bool(thinking))

    def _with_system_turn(self, turns: Sequence[Message]) -> tuple[Message, ...]:
        system = self.settings.system_prompt
        if system and not any(turn.role in ("system", "developer") for turn in turns):
            return (Message(role="system", content=system), *turns)
        return tuple(turns)

    def _limit(self, request: ChatRequest, prompt_tokens: int) -> int:
        room = self.info.context_len - prompt_tokens
        if room < 1:
            raise ContextOverflowError(
                f"the prompt has {prompt_tokens} tokens, and the context of {self.info.id} holds "
                f"{self.info.context_len} of prompt and answer together",
                param="messages" if request.messages else "prompt",
            )
        return min(request.max_tokens or self.settings.max_tokens, room)

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
