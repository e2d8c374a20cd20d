"""Requests in hand: each is one task, and each ends in exactly one final message.

However a task ends, its final message is written down, published and, when the broker has it, the
request is acknowledged; so what is in hand when the service dies is delivered again, and what was
answered before is answered with the same words. Cancelling its task is the only way to stop a
request: ``llm/cancel/<id>`` does so, and so do a newer press of a button and the end of the
service. A request that can go back to the broker then, unanswered and unacknowledged, does.
"""

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import structlog

from edge_llm.engine.interface import Engine
from edge_llm.errors import EdgeLLMError, ExpiredError, ReplacedError, ShuttingDownError
from edge_llm.mqtt import Publication
from edge_llm.outgoing import Outgoing
from edge_llm.protocol import Done, MqttRequest, Started
from edge_llm.service.conversations import Conversations, Turn
from edge_llm.service.copies import Copies
from edge_llm.service.reply import Reply
from edge_llm.store import Store

__all__ = ["Asked", "Requests"]

log = structlog.get_logger()

Kept = asyncio.Future[Sequence[Outgoing]]

RECENT_S = 600.0  # since an answer, for the same request to be a repetition by its sender


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is about to be taken in hand.

    Attributes:
        id: as in its topic, or the name of the route that made it.
        key: what a repetition of it has in common with it.
        publication: what brought it.
        request: with what its preset filled in.
        may_be_old: an earlier life of ours may have had it before.
    """

    id: str
    key: bytes
    publication: Publication
    request: MqttRequest
    reply: Reply
    may_be_old: bool
    arrived_at: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class _InHand:
    asked: Asked
    copies: list[Publication]
    task: asyncio.Task[Done | EdgeLLMError] = field(init=False)
    age_s: float = 0.0  # when it arrived in this life
    turn: Turn | None = None  # in a session
    has_begun: bool = False
    end: EdgeLLMError | None = None  # in place of what the task would have said
    is_cancelled: bool = False
    goes_back: bool = False
    confirmed: asyncio.Future[None] | None = None  # by the broker: it has the final message

    @property
    def is_over(self) -> bool:
        return self.confirmed is not None and self.confirmed.done()


@dataclass(slots=True)
class Requests:
    """All requests that are in hand.

    Args:
        engine: generates; it has its own queue.
        store: what was answered before, and conversations.
        copies: acknowledges messages.
        conversations: the sessions.
        publish: sends a message; the future is done when the broker has it.
        can_go_back: whether the broker delivers a message again if it is not acknowledged.
        on_end: called with the id of each request that ends.
        give_back: tells whoever brought a message that somebody else may have it.
        keep: remembers an answer elsewhere before it is said; gives None where nobody does.
    """

    engine: Engine
    store: Store
    copies: Copies
    conversations: Conversations
    publish: Callable[[Outgoing], asyncio.Future[None]]
    can_go_back: Callable[[Publication], bool]
    on_end: Callable[[str], None]
    give_back: Callable[[Publication], None]
    keep: Callable[[Publication, Sequence[Outgoing]], Kept | None]
    _in_hand: dict[str, list[_InHand]] = field(default_factory=dict)
    _tasks: asyncio.TaskGroup = field(init=False)

    def open(self, tasks: asyncio.TaskGroup) -> None:
        """Let this group own the tasks."""
        self._tasks = tasks

    def __len__(self) -> int:
        """How many have no final message that the broker has confirmed."""
        return sum(map(len, self._in_hand.values()))

    @property
    def num_running(self) -> int:
        """How many wait or are being answered."""
        return len(self._all_running())

    def count(self, request_id: str) -> int:
        """How many requests of this id wait or are being answered."""
        return len(self._running(request_id))

    def is_in_hand(self, request_id: str, key: bytes | None = None) -> bool:
        """Tell whether a request of this id, and with this key, has no final message yet."""
        return any(
            key in (None, entry.asked.key) and not entry.is_over
            for entry in self._in_hand.get(request_id, ())
        )

    def join(self, request_id: str, key: bytes, publication: Publication, *, again: bool) -> bool:
        """Take a message for a copy of a request that is in hand, if it is one.

        Args:
            request_id: of the message.
            key: of the message.
            publication: the message.
            again: it may come from a sender who repeats a request; else only what the broker
                itself delivers twice is a copy.
        """
        for entry in self._in_hand.get(request_id, ()):
            if entry.asked.key != key:
                continue
            if any(self.copies.is_same(copy, publication) for copy in entry.copies):
                return True  # one acknowledgement is for both
            if again:
                entry.copies.append(publication)
                if entry.is_over:
                    self.copies.ack(publication)
                return True
        return False

    def was_answered(self, key: bytes) -> bool:
        """Tell whether a request was answered before."""
        return self.store.answers.finished(key) is not None

    def repeat(self, key: bytes, publication: Publication) -> bool:
        """Give the same answer again to a request that was answered before, if it was."""
        # Only the broker's word is good for long; who presses a button tomorrow asks anew.
        max_age_s = None if publication.dup else RECENT_S
        messages = self.store.answers.finished(key, max_age_s)
        if not messages:
            return False
        log.info("request.repeated", topic=publication.topic)
        self._send(messages, [publication])
        return True

    def accept(self, asked: Asked) -> None:
        """Begin to answer a request."""
        entry = _InHand(asked, [asked.publication])
        if asked.publication.qos > 0:
            entry.age_s = self.store.answers.receive(asked.key, again=asked.may_be_old)
        entry.age_s = max(entry.age_s, asked.publication.age_s)
        entry.task = self._tasks.create_task(self._answer(entry), name=f"request.{asked.id}")
        self._in_hand.setdefault(asked.id, []).append(entry)
        # In a callback and not in the task, as a task may be cancelled before it has begun.
        entry.task.add_done_callback(functools.partial(self._finish, entry))

    def refuse(self, messages: Sequence[Outgoing], publication: Publication) -> None:
        """Send the final message of a request that is not taken in hand."""
        self._send(messages, [publication])

    def cancel(self, request_id: str) -> None:
        """End the requests of an id with the text that there is."""
        for entry in self._running(request_id):
            entry.is_cancelled = True
            entry.task.cancel()

    def replace(self, request_id: str) -> None:
        """End the requests of an id without an answer, as another takes their place."""
        for entry in self._running(request_id):
            entry.end = ReplacedError("a newer press took its place")
            entry.task.cancel()

    def hand_back(self, is_meant: Callable[[Publication], bool]) -> None:
        """Give requests back to whoever brought them, unanswered, as it goes on elsewhere.

        Args:
            is_meant: tells of a message whether its request is.
        """
        for entry in self._all_running():
            if all(map(is_meant, entry.copies)):
                self._stop(entry)

    async def drain(self, timeout_s: float) -> None:
        """Let what has begun end, within a limit; give the rest back to the broker, or end it."""
        begun = []
        for entry in self._all_running():
            if entry.has_begun:
                begun.append(entry.task)
            else:
                self._stop(entry)
        if begun and timeout_s:
            log.info("node.draining", num_requests=len(begun), at_most_s=timeout_s)
            await asyncio.wait(begun, timeout=timeout_s)

    def stop(self) -> None:
        """End whatever is still in hand."""
        for entry in self._all_running():
            self._stop(entry)

    def _stop(self, entry: _InHand) -> None:
        entry.goes_back = all(self.can_go_back(copy) for copy in entry.copies)
        if not entry.goes_back:
            entry.end = ShuttingDownError("the node is stopping; send it again")
        entry.task.cancel()

    def _all_running(self) -> list[_InHand]:
        return [entry for request_id in self._in_hand for entry in self._running(request_id)]

    def _running(self, request_id: str) -> list[_InHand]:
        return [entry for entry in self._in_hand.get(request_id, ()) if not entry.task.done()]

    async def _answer(self, entry: _InHand) -> Done | EdgeLLMError:
        asked = entry.asked
        with structlog.contextvars.bound_contextvars(request_id=asked.id, via="mqtt"):
            try:
                request = _aged(entry, asked.request)
                if turn := await self.conversations.begin(request):
                    entry.turn, request = turn, _aged(entry, turn.request)
                async with aclosing(self.engine.generate(request)) as events:
                    async for event in events:
                        entry.has_begun |= isinstance(event, Started)
                        for outgoing in asked.reply.add(event):
                            self.publish(outgoing)
                        if isinstance(event, Done):
                            return event
                return EdgeLLMError("the engine ended without a reason")
            except EdgeLLMError as exc:
                return exc
            except Exception:
                log.exception("request.crashed")
                return EdgeLLMError("the node failed on this request; its log says why")

    def _finish(self, entry: _InHand, task: asyncio.Task[Done | EdgeLLMError]) -> None:
        """Send the final message; runs exactly once for each task, however it ended."""
        self.on_end(entry.asked.id)
        if models := self.engine.models:
            entry.asked.reply.name_model(models[0].id)
        outcome = _outcome(entry, task)
        if entry.goes_back and task.cancelled():
            log.info("request.handed_back", request_id=entry.asked.id)
            self._write_down(entry, outcome, [])
            for copy in entry.copies:
                self.give_back(copy)
            self._forget(entry)
            return
        reply = entry.asked.reply
        ending = reply.fail(outcome) if isinstance(outcome, EdgeLLMError) else reply.finish(outcome)
        self._write_down(entry, outcome, ending.finals)
        for outgoing in ending.last:
            self.publish(outgoing)
        entry.confirmed = self._send(ending.finals, entry.copies)
        entry.confirmed.add_done_callback(lambda _: self._forget(entry))

    def _write_down(
        self, entry: _InHand, outcome: Done | EdgeLLMError | None, finals: Sequence[Outgoing]
    ) -> None:
        """Remember the answer and the conversation, both or neither, before anyone hears of it."""
        with self.store.database.transaction():
            if entry.turn:
                failed = isinstance(outcome, EdgeLLMError)
                dropped = outcome.dropped_messages if isinstance(outcome, Done) else 0
                answer = None if failed else entry.asked.reply.message
                self.conversations.end(entry.turn, answer, dropped)
            if finals and entry.asked.publication.qos > 0:
                self.store.answers.finish(entry.asked.key, finals)

    def _send(
        self, messages: Sequence[Outgoing], copies: list[Publication]
    ) -> asyncio.Future[None]:
        """Publish an answer, and acknowledge what it is for once the broker has it."""
        kept = self.keep(copies[0], messages)
        if kept is None:
            return self._say(messages, copies)
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def say(done: Kept) -> None:
            if done.cancelled():  # as it could not be kept before the end of the node
                confirmed.cancel()
            else:
                _follow(self._say(done.result(), copies), confirmed)

        kept.add_done_callback(say)
        return confirmed

    def _say(self, messages: Sequence[Outgoing], copies: list[Publication]) -> asyncio.Future[None]:
        *parts, final = messages
        for part in parts:
            self.publish(part)
        confirmed = self.publish(final)
        confirmed.add_done_callback(functools.partial(self._ack_answered, copies))
        return confirmed

    def _ack_answered(self, copies: list[Publication], confirmed: asyncio.Future[None]) -> None:
        if confirmed.cancelled():
            return
        error = confirmed.exception()
        # One that no broker will ever take would come again, and its answer fail again, for ever.
        if error is None or (isinstance(error, EdgeLLMError) and not error.retryable):
            for publication in copies:
                self.copies.ack(publication)

    def _forget(self, entry: _InHand) -> None:
        entries = self._in_hand[entry.asked.id]
        entries.remove(entry)
        if not entries:
            del self._in_hand[entry.asked.id]


def _follow(first: asyncio.Future[None], second: asyncio.Future[None]) -> None:
    """Have the second future end as the first one does."""

    def end(done: asyncio.Future[None]) -> None:
        if second.done():
            return
        if done.cancelled():
            second.cancel()
        elif error := done.exception():
            second.set_exception(error)
        else:
            second.set_result(None)

    first.add_done_callback(end)


def _outcome(entry: _InHand, task: asyncio.Task[Done | EdgeLLMError]) -> Done | EdgeLLMError | None:
    """Return how a request ended: None if it was cancelled, and its text so far is the answer."""
    if not task.cancelled():
        return task.result()
    if entry.is_cancelled:
        return None
    return entry.end or ShuttingDownError("the node is stopping; send it again")


def _aged(entry: _InHand, request: MqttRequest) -> MqttRequest:
    """Count a request's limits from when it came first, in whatever life of ours.

    Raises:
        ExpiredError: one of them is over.
    """
    age_s = entry.age_s + time.monotonic() - entry.asked.arrived_at
    left = {
        name: limit_s - age_s
        for name in ("ttl_s", "time_budget_s")
        if (limit_s := getattr(entry.asked.request, name)) is not None
    }
    for name, left_s in left.items():
        if left_s <= 0:
            raise ExpiredError(f"the request is {age_s:.0f} s old, and its {name} is over")
    return request.model_copy(update=left)
