"""A route: a topic of somebody else's that asks, so that a button needs no code.

Templates see what the message had: ``topic``, its ``levels``, the ``payload`` as text and, where
that is JSON, as ``json``. They are Jinja2 in its sandbox, written by whoever writes the settings;
a message only fills them in, and can't bring a template of its own.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from edge_llm.errors import InvalidEncodingError, InvalidRequestError, PayloadTooLargeError
from edge_llm.protocol import MAX_PAYLOAD_BYTES
from edge_llm.protocol.request import SESSION_NAME
from edge_llm.section import Section, TopicFilter, TopicLevel
from edge_llm.text.surrogates import mend
from edge_llm.text.template import fill, parse_template
from edge_llm.topics import Topics, explain_bad_topic, overlaps

__all__ = ["Pressed", "Route", "find_conflict"]


TemplateText = Annotated[str, AfterValidator(parse_template)]


@dataclass(frozen=True, slots=True)
class Pressed:
    """What one message makes of a route's templates; None where the route has no template."""

    prompt: str | None
    respond_to: str
    deltas_to: str | None
    session: str | None


class Route(Section):
    """Messages on a topic ask; the replies go where the route says."""

    topic: TopicFilter
    """Which topics: a filter with ``+`` and ``#``."""
    name: TopicLevel | None = None
    """For logs, ``llm/cancel/<name>`` and the default reply topic; made of the topic if missing."""
    preset: str | None = None
    """Who answers; the default preset if not given."""
    prompt: TemplateText | None = None
    """What is asked: ``"Greet visitor {{ json.name }} at {{ levels[1] }}."``. If not given, the
    preset's own prompt; if that has none, the payload."""
    respond_to: TemplateText | None = None
    """Where the reply goes; ``llm/response/<name>`` if not given."""
    deltas_to: TemplateText | None = None
    """Where the reply goes as it grows, by sentences if neither route nor preset says otherwise."""
    session: TemplateText | None = None
    """A conversation that the node remembers for this button."""
    qos: Annotated[int, Field(ge=0, le=1)] = 1
    """Of the subscription, and the most of the reply; at 1 no press is lost."""
    retain: bool = False
    """Retain the reply, so that a display that is switched on later shows it."""
    format: Literal["json", "text"] = "text"
    """Of the reply."""
    stream: Literal["token", "word", "sentence"] | None = None
    """The pieces in ``deltas_to``."""
    while_busy: Literal["queue", "drop", "replace"] = "queue"
    """What a press does while an answer of this route is in hand: wait its turn, nothing, or stop
    that answer and take its place."""
    max_queued: Annotated[int, Field(ge=0, le=10_000)] = 4
    """With ``while_busy = "queue"``, how many presses may wait; more are told ``queue_full``."""
    cooldown_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    """Presses that come so soon after the end of an answer do nothing, in seconds."""

    @model_validator(mode="after")
    def _streams_somewhere(self) -> Self:
        if self.stream and self.deltas_to is None:
            raise ValueError(f"route {self.id!r}: 'stream' needs 'deltas_to'")
        return self

    @property
    def id(self) -> str:
        """The name, or the topic as one."""
        return self.name or re.sub(r"[^A-Za-z0-9_.]+", "-", self.topic).strip("-")[:64] or "route"

    def press(self, topic: str, payload: bytes, topics: Topics) -> Pressed:
        """Fill in the templates.

        Raises:
            InvalidRequestError: or one below it; the message does not fit the templates.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise PayloadTooLargeError(
                f"the message has {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are taken"
            )
        try:
            text = payload.decode()
        except UnicodeDecodeError as exc:
            raise InvalidEncodingError(f"the message is not UTF-8: byte {exc.start}") from exc
        values = {
            "topic": topic,
            "levels": topic.split("/"),
            "payload": text,
            "json": _parse(text),
        }
        session = self._fill("session", values)
        if session is not None and not re.fullmatch(SESSION_NAME, session):
            raise InvalidRequestError(f"route {self.id!r}: {session!r} can't name a session")
        prompt = self._fill("prompt", values)
        if prompt is not None and not prompt.strip():
            raise InvalidRequestError(f"route {self.id!r}: the prompt is empty", param="prompt")
        return Pressed(
            prompt=prompt,
            respond_to=self._topic("respond_to", values) or topics.response(self.id),
            deltas_to=self._topic("deltas_to", values),
            session=session,
        )

    def _fill(self, field: str, values: dict[str, Any]) -> str | None:
        source = getattr(self, field)
        if source is None:
            return None
        try:
            return mend(fill(source, values))
        # A template may fail in any way that Python code may: 1 / json.n
        except Exception as exc:
            raise InvalidRequestError(f"route {self.id!r}: {field}: {exc}", param=field) from exc

    def _topic(self, field: str, values: dict[str, Any]) -> str | None:
        topic = self._fill(field, values)
        if topic is None:
            return None
        reason = explain_bad_topic(topic)
        pattern = _as_filter(getattr(self, field))
        if not reason and "#" not in pattern and topic.count("/") != pattern.count("/"):
            reason = "a value has a '/', and may only fill one level"
        if reason:
            raise InvalidRequestError(f"route {self.id!r}: {field}: {reason}", param=field)
        return topic

    def outputs(self, topics: Topics) -> Iterator[str]:
        """Yield filters for all topics that the route may publish on."""
        respond_to = _as_filter(self.respond_to or topics.response(self.id))
        yield respond_to
        if not respond_to.endswith("#"):
            yield from (f"{respond_to}/{level}" for level in ("error", "event", "part/+"))
        if self.deltas_to:
            yield _as_filter(self.deltas_to)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _as_filter(template: str) -> str:
    """Return a filter for whatever a topic template may become.

    A value fills one level or a part of it (``_topic`` sees to that); with statements in a
    template, anything may come from there on.
    """
    fixed, statement, _ = template.partition("{%")
    levels = re.sub(r"\{\{.*?\}\}", "+", fixed, flags=re.DOTALL).split("/")
    if statement:
        levels[-1] = "#"
    return "/".join("+" if "+" in level else level for level in levels)


def find_conflict(routes: Sequence[Route], topics: Topics) -> str | None:
    """Say which route would answer itself, alone or by way of others; None if all is well."""
    ids = [route.id for route in routes]
    if twice := next((name for name in ids if ids.count(name) > 1), None):
        return f"route {twice!r}: there are two with this name; give them a 'name' each"
    own = [*topics.request_filters, *topics.cancel_filters, topics.reset_filter, topics.command]
    for route in routes:
        if any(overlaps(route.topic, topic_filter) for topic_filter in own):
            return (
                f"route {route.id!r}: {route.topic!r} takes in topics that the node itself answers"
            )
        if overlaps(route.topic, f"{topics.prefix}/node/{topics.node}/#"):
            return f"route {route.id!r}: {route.topic!r} takes in what the node says of itself"
    return _find_loop(routes, topics)


def _find_loop(routes: Sequence[Route], topics: Topics) -> str | None:
    follows = {
        route.id: [
            other.id
            for other in routes
            if any(overlaps(output, other.topic) for output in route.outputs(topics))
        ]
        for route in routes
    }

    try:
        TopologicalSorter(follows).prepare()
    except CycleError as exc:
        loop = exc.args[1][::-1]  # graphlib names those before first
        shown = " -> ".join(repr(name) for name in loop)
        return f"route {loop[0]!r} answers into its own topic, and would never stop: {shown}"
    return None
