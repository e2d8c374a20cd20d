"""Names of topics, and what may stand in them."""

from collections.abc import Sequence

from edge_llm.errors import InvalidIdError

__all__ = [
    "MAX_ID_CHARS",
    "RESERVED_LEVELS",
    "Topics",
    "explain_bad_filter",
    "explain_bad_topic",
    "overlaps",
]

MAX_ID_CHARS = 128
"""Per request id, both levels together; keeps response topics within any client's limits."""

MAX_TOPIC_BYTES = 512
"""More than any topic of ours or of a maker's needs; MQTT's own limit is 65,535."""

RESERVED_LEVELS = frozenset({"delta", "event", "error", "part"})
"""Second levels that name the messages below a response (design, section 6)."""


class Topics:
    """Names of topics below one prefix; the prefix may have several levels."""

    def __init__(self, prefix: str, node: str) -> None:
        self.prefix = prefix
        self.node = node
        self.request_filters = (f"{prefix}/request/+", f"{prefix}/request/+/+")
        self.cancel_filters = (f"{prefix}/cancel/+", f"{prefix}/cancel/+/+")
        self.reset_filter = f"{prefix}/session/+/reset"
        self.command = f"{prefix}/node/{node}/command"
        self.status = f"{prefix}/node/{node}/status"
        self.activity = f"{prefix}/node/{node}/activity"
        self.info = f"{prefix}/node/{node}/info"
        self.health = f"{prefix}/node/{node}/health"
        self.error = f"{prefix}/node/{node}/error"
        self.last_answer = f"{prefix}/node/{node}/last_answer"

    def request(self, request_id: str) -> str:
        """Where a request goes."""
        return f"{self.prefix}/request/{request_id}"

    def cancel(self, request_id: str) -> str:
        """Where a request is cancelled."""
        return f"{self.prefix}/cancel/{request_id}"

    def response(self, request_id: str, below: str = "") -> str:
        """Where a reply goes; ``below`` is one of the reserved levels."""
        topic = f"{self.prefix}/response/{request_id}"
        return f"{topic}/{below}" if below else topic

    def is_cancel(self, topic: str) -> bool:
        """Tell a cancel from a request."""
        return topic.startswith(f"{self.prefix}/cancel/")

    def is_request(self, topic: str) -> bool:
        """Tell a request from all else."""
        return topic.startswith(f"{self.prefix}/request/")

    def session(self, topic: str) -> str | None:
        """Return the session that a topic resets, if it is one that does."""
        begin = f"{self.prefix}/session/"
        session, _, below = topic.removeprefix(begin).partition("/")
        return session if topic.startswith(begin) and below == "reset" else None

    def request_id(self, topic: str) -> str:
        """Return the id in a request or cancel topic.

        Raises:
            InvalidIdError: it could not be answered on a topic of its own.
        """
        request_id = topic.removeprefix(f"{self.prefix}/").partition("/")[2]
        levels = request_id.split("/")
        if not all(levels):
            raise InvalidIdError("the request id has an empty level")
        if len(request_id) > MAX_ID_CHARS:
            raise InvalidIdError(f"the request id has more than {MAX_ID_CHARS} characters")
        if not request_id.isprintable():
            raise InvalidIdError("the request id has control characters")
        if any(char in request_id for char in "+#"):  # no broker should let that through
            raise InvalidIdError("the request id has a wildcard")
        if len(levels) > 1 and levels[1] in RESERVED_LEVELS:
            raise InvalidIdError(f"the second level of a request id may not be {levels[1]!r}")
        return request_id


def explain_bad_topic(topic: str) -> str | None:
    """Say why nothing can be published on a topic; None if it is a good one."""
    if not topic:
        return "the topic is empty"
    if any(char in topic for char in "+#"):
        return "the topic has a wildcard"
    if topic.startswith("$"):
        return "topics that begin with '$' are the broker's own"
    if not topic.isprintable():
        return "the topic has control characters"
    if len(topic.encode()) > MAX_TOPIC_BYTES:
        return f"the topic has more than {MAX_TOPIC_BYTES} bytes"
    return None


def explain_bad_filter(topic_filter: str) -> str | None:
    """Say why a topic filter can't be subscribed to; None if it is a good one."""
    *before, last = topic_filter.split("/")
    if "#" in "".join(before) or ("#" in last and last != "#"):
        return "'#' may only stand alone, as the last level"
    if any("+" in level and level != "+" for level in (*before, last)):
        return "'+' may only stand alone in its level"
    without = topic_filter.replace("#", "x").replace("+", "x")
    return explain_bad_topic(without)


def overlaps(first: str, second: str) -> bool:
    """Tell whether some topic matches both of two filters."""
    return _overlap(first.split("/"), second.split("/"))


def _overlap(first: Sequence[str], second: Sequence[str]) -> bool:
    if "#" in (*first[:1], *second[:1]):
        return True
    if not first or not second:
        # "a/#" also matches "a".
        return first == second
    if first[0] != second[0] and "+" not in (first[0], second[0]):
        return False
    rest = (first[1:], second[1:])
    return _overlap(*rest) or ["#"] in rest
