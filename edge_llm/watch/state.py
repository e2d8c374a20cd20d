"""What is known of nodes and requests by the messages that pass; no clock, no terminal, no broker.

Nothing here grows without a bound: requests that nobody answers are forgotten, texts are kept as
far as a line shows them, and of nodes and requests there are only so many.
"""

from collections import deque
from dataclasses import dataclass, field

from edge_llm.client import FleetDepth, find_depth
from edge_llm.protocol import NodeHealth, NodeInfo
from edge_llm.topics import RESERVED_LEVELS
from edge_llm.watch.payloads import (
    MAX_CHARS,
    read,
    read_delta,
    read_error,
    read_final,
    read_prompt,
    read_state,
    short,
)
from edge_llm.watch.seen import Happening, NodeSeen, ReplySeen, RequestSeen

__all__ = ["State"]

MAX_NODES = 64
MAX_REQUESTS = 512
MAX_REPLIES = 128
FORGET_AFTER_S = 900.0  # of silence; a node itself answers ``expired`` after two minutes
FALLBACK_WITHIN_S = 1.0  # after an error: what is said instead


@dataclass(slots=True)
class State:
    """All that is known now.

    Args:
        prefix: of all topics.
    """

    prefix: str = "llm"
    nodes: dict[str, NodeSeen] = field(default_factory=dict)
    requests: dict[str, RequestSeen] = field(default_factory=dict)
    """By id, oldest first; of several with one id the newest."""
    replies: deque[ReplySeen] = field(default_factory=lambda: deque(maxlen=MAX_REPLIES))
    num_answered: int = 0
    num_failed: int = 0
    _told_waiting: int = 0
    _elsewhere: dict[str, str] = field(default_factory=dict)  # response topics, and whose they are

    @property
    def num_waiting(self) -> int:
        """How many requests wait for their turn, as far as one can see."""
        return sum(seen.waits for seen in self.requests.values())

    def depth(self, now: float) -> FleetDepth | None:
        """Return how much waits in the fleet; None if no node that is online is in one."""
        online = (node for node in self.nodes.values() if node.status == "online")
        return find_depth([(node.fleet, node.heard_at) for node in online if node.fleet], now)

    def feed(
        self,
        topic: str,
        payload: bytes,
        now: float,
        *,
        is_retained: bool = False,
        respond_to: str | None = None,
    ) -> Happening | None:
        """Take a message; return what happened by it, if that is worth a line.

        Args:
            topic: where it was published.
            payload: as it came.
            now: seconds, by a clock that does not jump.
            is_retained: it is an old one.
            respond_to: the response topic that came with it, by MQTT 5.
        """
        self.forget(now)
        kind, _, rest = topic.removeprefix(f"{self.prefix}/").partition("/")
        if kind == "node":
            name, _, what = rest.partition("/")
            return self._take_node(short(name), what, payload, now, is_retained=is_retained)
        if is_retained:
            return None
        if (reply := self._find_reply(topic)) is not None:
            return self._take_reply(*reply, payload, now)
        if kind == "request" and payload:  # nothing clears a request that was retained
            return self._take_request(short(rest), payload, now, respond_to)
        if kind == "cancel" and (seen := self.requests.get(short(rest))):
            seen.state = "cancelling"
            return Happening("request", seen.id, "cancelled by its sender")
        return None

    def forget(self, now: float) -> None:
        """Drop the requests that nobody will answer any more."""
        for seen in list(self.requests.values()):
            if now - seen.heard_at > FORGET_AFTER_S or len(self.requests) > MAX_REQUESTS:
                self._drop(seen.id)

    def _drop(self, request_id: str) -> RequestSeen | None:
        for topic in [topic for topic, owner in self._elsewhere.items() if owner == request_id]:
            del self._elsewhere[topic]
        return self.requests.pop(request_id, None)

    def _find_reply(self, topic: str) -> tuple[str, str] | None:
        """Return the request that a message replies to, and the level below its response topic."""
        response, level = topic, ""
        for _ in range(3):
            if owner := self._elsewhere.get(response):
                return owner, level
            response, _, level = response.rpartition("/")
        base = f"{self.prefix}/response/"
        if not topic.startswith(base):
            return None
        levels = topic.removeprefix(base).split("/")
        for num_levels in (1, 2):  # of the id
            if len(levels) > num_levels and levels[num_levels] in RESERVED_LEVELS:
                return short("/".join(levels[:num_levels])), levels[num_levels]
        return short("/".join(levels)), ""

    def _take_node(
        self, name: str, what: str, payload: bytes, now: float, *, is_retained: bool
    ) -> Happening | None:
        if what == "error":
            code, message = read_error(payload)
            return self._note(ReplySeen(name, now, code, message, is_error=True))
        text = short(payload.decode(errors="replace"))
        if what == "status" and not text:  # cleared, as there is no such node any more
            self.nodes.pop(name, None)
            return Happening("node", name, "removed")
        if name not in self.nodes and len(self.nodes) >= MAX_NODES:
            return None
        node = self.nodes.setdefault(name, NodeSeen(name, now, is_older=is_retained))
        if what == "info":
            info = read(NodeInfo, payload)
            return _note_info(node, info, now) if info else None
        if what == "health":
            health = read(NodeHealth, payload)
            return self._note_health(node, health, now) if health else None
        return _note_word(node, what, text, now)

    def _note_health(self, node: NodeSeen, health: NodeHealth, now: float) -> Happening | None:
        node.fleet, node.heard_at = health.fleet, now
        if happening := _note_health(node, health):
            return happening
        depth = self.depth(now)
        if depth is None or depth.waiting == self._told_waiting:
            return None
        self._told_waiting = depth.waiting
        oldest = "" if depth.oldest_s is None else f", the oldest for {depth.oldest_s:.1f} s"
        return Happening("fleet", node.name, f"{depth.waiting} waiting{oldest}")

    def _take_request(
        self, request_id: str, payload: bytes, now: float, respond_to: str | None
    ) -> Happening:
        self._drop(request_id)
        prompt = read_prompt(payload)
        self.requests[request_id] = RequestSeen(request_id, now, now, "asked", prompt)
        if respond_to:
            self._elsewhere[respond_to] = request_id
        return Happening("request", request_id, "asked", prompt)

    def _take_reply(
        self, request_id: str, level: str, payload: bytes, now: float
    ) -> Happening | None:
        match level:
            case "" if payload:  # nothing clears an answer that was retained
                return self._finish(request_id, payload, now)
            case "error":
                return self._fail(request_id, payload, now)
            case "delta":
                return self._progress(request_id, "speaking", now, read_delta(payload))
            case "event" if state := read_state(payload):
                return self._progress(request_id, state, now)
        return None

    def _progress(
        self, request_id: str, state: str, now: float, text: str = ""
    ) -> Happening | None:
        fresh = RequestSeen(request_id, now, now, "?", is_older=True)
        seen = self.requests.setdefault(request_id, fresh)
        before, seen.state, seen.heard_at = seen.state, state, now
        seen.text = (seen.text + text)[-MAX_CHARS:]
        seen.num_chars += len(text)
        return Happening("request", request_id, state) if state != before else None

    def _finish(self, request_id: str, payload: bytes, now: float) -> Happening:
        seen = self._drop(request_id)
        reply = read_final(request_id, payload, now, _age(seen, now))
        if seen is None and reply.end == "text" and self._has_just_failed(request_id, now):
            return Happening("reply", request_id, "fallback", reply.text)
        return self._note(reply)

    def _fail(self, request_id: str, payload: bytes, now: float) -> Happening:
        code, message = read_error(payload)
        # With this code only a copy was refused, and the request itself goes on.
        seen = self._drop(request_id) if code != "duplicate_id" else None
        took_s = _age(seen, now)
        return self._note(ReplySeen(request_id, now, code, message, is_error=True, took_s=took_s))

    def _has_just_failed(self, request_id: str, now: float) -> bool:
        return any(
            reply.id == request_id and reply.is_error and now - reply.at < FALLBACK_WITHIN_S
            for reply in self.replies
        )

    def _note(self, reply: ReplySeen) -> Happening:
        self.replies.append(reply)
        self.num_failed += reply.is_error
        self.num_answered += not reply.is_error
        return reply.happening


def _age(seen: RequestSeen | None, now: float) -> float | None:
    return now - seen.asked_at if seen and not seen.is_older else None


def _note_word(node: NodeSeen, what: str, text: str, now: float) -> Happening | None:
    if what == "status" and text != node.status:
        if node.status != "?":
            node.since, node.is_older = now, False
        node.status = text
        return Happening("node", node.name, text)
    if what == "activity" and text != node.activity:
        node.activity = text
        return Happening("node", node.name, text)
    return None


def _note_health(node: NodeSeen, health: NodeHealth) -> Happening | None:
    celsius = health.card.temperature_celsius if health.card else None
    heat = "" if health.heat in (None, "normal") else f" {health.heat}"
    node.card = "" if celsius is None else f"{celsius:.0f} C{heat}"
    before, node.attention = node.attention, short(health.attention or "")
    if node.attention == before:
        return None
    return Happening(
        "node", node.name, "needs you" if node.attention else "is well", node.attention
    )


def _note_info(node: NodeSeen, info: NodeInfo, now: float) -> Happening | None:
    if node.boot_id and node.boot_id != info.boot_id:
        node.since, node.is_older = now, False
    models = ", ".join(model.id for model in info.models)
    before = (node.boot_id, node.models)
    node.boot_id, node.version = info.boot_id, short(info.version)
    node.models = short(models)
    if before == (node.boot_id, node.models):
        return None
    return Happening("node", node.name, f"edge-llm {node.version}", node.models or "no model yet")
