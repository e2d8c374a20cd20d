"""The prompt of a request: its conversation, rendered so that it fits into the context."""

from collections.abc import Sequence
from dataclasses import dataclass

from edge_llm.engine.prompt import Prompter
from edge_llm.engine.prompt.overflow import Turns
from edge_llm.errors import ContextOverflowError, UnsupportedFieldError
from edge_llm.protocol import ChatRequest, Message, ModelInfo, Tool
from edge_llm.settings import EngineSettings

__all__ = ["Prompt", "Prompts"]

ANSWER_SHARE = 4  # of the context, one part in so many: room that is made for an answer


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is given to answer."""

    conversation: tuple[Message, ...]
    tools: tuple[Tool, ...]
    token_ids: list[int]
    num_dropped: int
    """Oldest messages that were left out."""
    enable_thinking: bool
    max_tokens: int
    """Of the answer: what was asked for, or what there is room for."""


class Prompts:
    """Makes the prompts of one model.

    Args:
        prompter: renders conversations.
        info: says how much the context holds.
        settings: what holds where a request says nothing.
    """

    def __init__(self, prompter: Prompter, info: ModelInfo, settings: EngineSettings) -> None:
        self._prompter = prompter
        self._info = info
        self._settings = settings

    def make(self, request: ChatRequest) -> Prompt:
        """Render a request's conversation, without its oldest turns if they are too many.

        Raises:
            ContextOverflowError: the prompt leaves no room for an answer.
            UnsupportedFieldError: the model can't be shown tools.
            InvalidRequestError: the model's chat template refuses the conversation.
        """
        if request.usable_tools and not self._prompter.has_tools:
            raise UnsupportedFieldError(
                f"{self._info.id} can't call tools: its chat template does not show them",
                param="tools",
            )
        conversation = self.with_system_turn(request.conversation)
        kept, token_ids = self._fit(request, conversation)
        return Prompt(
            conversation=kept,
            tools=request.usable_tools,
            token_ids=token_ids,
            num_dropped=len(conversation) - len(kept),
            enable_thinking=self._enable_thinking(request),
            max_tokens=self._limit(request, len(token_ids)),
        )

    def with_system_turn(self, turns: Sequence[Message]) -> tuple[Message, ...]:
        """Put the settings' system prompt before turns that have none of their own."""
        system = self._settings.system_prompt
        if system and not any(turn.role in ("system", "developer") for turn in turns):
            return (Message(role="system", content=system), *turns)
        return tuple(turns)

    def _fit(
        self, request: ChatRequest, conversation: tuple[Message, ...]
    ) -> tuple[tuple[Message, ...], list[int]]:
        """Return the turns that are kept, and their tokens."""
        token_ids = self._render(request, conversation)
        wanted = request.max_tokens or self._settings.max_tokens
        room = min(wanted, self._info.context_len // ANSWER_SHARE)
        most = self._info.context_len - room
        if request.overflow != "drop_oldest" or len(token_ids) <= most:
            return conversation, token_ids
        turns = Turns(conversation, self._count, self._frame_tokens(), self._tool_tokens(request))
        first = turns.first_kept(self._info.context_len, room)
        kept = conversation
        while first <= turns.last and len(token_ids) > most:
            kept = turns.since(first)
            token_ids = self._render(request, kept)
            first += 1
        return kept, token_ids

    def _count(self, turn: Message) -> int:
        calls = [call.function for call in turn.tool_calls or ()]
        text = "".join((turn.content, *(call.name + call.arguments for call in calls)))
        return len(self._prompter.tokenize(text))

    def _frame_tokens(self) -> int:
        """Count what the chat template puts around a message, rounded up."""
        user, assistant = Message(role="user", content="x"), Message(role="assistant", content="x")
        one, three = (
            len(self._prompter.render(turns, enable_thinking=False))
            for turns in ((user,), (user, assistant, user))
        )
        return -(-(three - one) // 2) - self._count(user)

    def _tool_tokens(self, request: ChatRequest) -> int:
        """Count what it takes to show the tools."""
        turns = (Message(role="system", content="x"), Message(role="user", content="x"))
        without, with_tools = (
            len(self._prompter.render(turns, enable_thinking=False, tools=tools))
            for tools in ((), request.usable_tools)
        )
        return with_tools - without

    def _render(self, request: ChatRequest, conversation: Sequence[Message]) -> list[int]:
        return self._prompter.render(
            conversation,
            enable_thinking=self._enable_thinking(request),
            tools=request.usable_tools,
        )

    def _enable_thinking(self, request: ChatRequest) -> bool:
        if request.thinking_budget == 0:
            return False
        wanted = request.enable_thinking
        return self._settings.enable_thinking if wanted is None else wanted

    def _limit(self, request: ChatRequest, prompt_tokens: int) -> int:
        room = self._info.context_len - prompt_tokens
        if room < 1:
            raise ContextOverflowError(
                f"the prompt has {prompt_tokens} tokens, and the context of {self._info.id} holds "
                f"{self._info.context_len} of prompt and answer together",
                param="messages" if request.messages else "prompt",
            )
        return min(request.max_tokens or self._settings.max_tokens, room)
