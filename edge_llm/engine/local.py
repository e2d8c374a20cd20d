"""LocalEngine: a model in this process, from a conversation to pieces of text.

Only the worker process makes one. It is not asynchronous: each item that ``generate`` yields is
one step, a prefill chunk or a token, and between two of them a request can be given up.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_llm.engine.answer import Answer
from edge_llm.engine.generation import ModelRunner
from edge_llm.engine.prompt import Prompter
from edge_llm.engine.sampling import Sampler, SamplingParams
from edge_llm.errors import ContextOverflowError, InvalidRequestError
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Event,
    FinishReason,
    Message,
    ModelInfo,
    Started,
    Usage,
)
from edge_llm.settings import EngineSettings

__all__ = ["LocalEngine"]


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

    def settle(self) -> Iterator[None]:
        """Compute what the next turn of the conversation will begin with, while nobody waits.

        Chat templates such as Qwen3's show an earlier answer without its thinking block, so the
        rows of an answer are of no use to the next turn. Here they are made as it will ask for
        them. Each item is one step; stop iterating to give it up.
        """
        token_ids = self.prompter.render_history(self.said) if self.said else []
        self.said.clear()
        if 0 < len(token_ids) < self.info.context_len:
            for _ in self.runner.prefill(token_ids):
                yield

    def close(self) -> None:
        """Give back what the device holds."""
        self.runner.close()

    def generate(
        self, request: ChatRequest, resume: Sequence[int] = ()
    ) -> Generator[Event, None, None]:
        """Yield Started, then a Delta for each step (empty where no text is ready), then Done.

        Args:
            request: what to answer.
            resume: tokens of the answer that an earlier process has generated; their text is
                not repeated.

        Raises:
            ContextOverflowError: the prompt leaves no room for an answer.
            InvalidRequestError: what only the model can find wrong.
        """
        thinking = _first(request.enable_thinking, self.settings.enable_thinking)
        prompt_ids = self.prompter.render(
            self._conversation(request), enable_thinking=bool(thinking)
        )
        limit = self._limit(request, len(prompt_ids))
        sampler = Sampler(self._sampling(request), self.prompter.vocab_size, prompt_ids)
        answer = Answer(self.prompter, request.stop or (), prompt_ids)
        yield Started()
        sampler.accept(resume)
        answer.add_all(resume)
        token_ids = list(resume)
        cached = self.runner.shared_prefix_len(prompt_ids)
        if not answer.ended and len(token_ids) < limit:
            logits = yield from self._prefill([*prompt_ids, *token_ids])
            while True:
                token_ids.append(sampler.sample(logits))
                yield answer.add(token_ids[-1])
                if answer.ended or len(token_ids) == limit:
                    break
                logits = self.runner.decode(token_ids[-1])
        if rest := answer.finish():
            yield Delta(text=rest)
        self.said[:] = [
            *self._conversation(request),
            Message(role="assistant", content=answer.text),
        ]
        yield Done(
            finish_reason=_finish_reason(answer),
            usage=Usage(
                prompt_tokens=len(prompt_ids),
                cached_tokens=cached,
                completion_tokens=len(token_ids),
            ),
        )

    def _prefill(self, token_ids: Sequence[int]) -> Generator[Delta, None, Any]:
        for logits in self.runner.prefill(token_ids):
            if logits is not None:
                return logits
            yield Delta()
        raise InvalidRequestError("the prompt has no tokens")

    def _conversation(self, request: ChatRequest) -> tuple[Message, ...]:
        turns = request.conversation
        system = self.settings.system_prompt
        if system and not any(turn.role in ("system", "developer") for turn in turns):
            return (Message(role="system", content=system), *turns)
        return turns

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


def _finish_reason(answer: Answer) -> FinishReason:
    return "stop" if answer.ended else "length"


def _first(*values: Any) -> Any:
    """Return the first value that was given."""
    return next((value for value in values if value is not None), None)
