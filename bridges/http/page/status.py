"""What ``GET /status`` tells: a whole, or on a stream first the whole and then what is new.

Times named ``at_s`` are on one clock of the node's, which ``now_s`` tells: a Raspberry Pi without a
network does not know the time of day, but whoever reads this does.
"""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from edge_llm.protocol import ModelInfo, NodeHealth

__all__ = [
    "About",
    "EndedRequest",
    "FleetNode",
    "FleetView",
    "Mark",
    "RequestInHand",
    "Said",
    "Sample",
    "Span",
    "State",
    "Status",
    "StatusUpdate",
    "Thresholds",
]


class Thresholds(TypedDict):
    """From which temperature of the card on something is done, in °C."""

    warn: float
    hot: float
    critical: float
    emergency: float
    resume: float


class About(TypedDict):
    """What rarely changes."""

    node: str
    version: str
    page: str
    """Changes when the page itself does."""
    texts: bool
    """Prompts and answers are told, too."""
    is_here: bool
    """The engine is in this process; else only the requests of this door are known."""
    models: list[ModelInfo]
    presets: list[str]
    default_preset: str | None
    thermal: Thresholds | None
    span_s: float
    """How far back readings, states and faults go."""


class FleetNode(TypedDict):
    """A node of the fleet; null is what it has not said."""

    node: str
    activity: str
    """``offline`` if it is not there."""
    joined: bool | None
    """It hears the fleet's servers."""
    held: int | None
    """Requests that it has in hand for the fleet."""
    card_celsius: float | None
    heat: str | None
    attention: str | None
    """What a person should do."""
    models: list[str]


class FleetView(TypedDict):
    """The fleet; the numbers are null while nobody knows them."""

    is_known: bool
    """Else the nodes are as they were when the connection broke."""
    waiting: int | None
    """Requests that no node has in hand."""
    oldest_s: float | None
    """How long the oldest of these has waited."""
    held: int | None
    """Requests in hand, of all nodes."""
    nodes: list[FleetNode]
    """By name."""


class State(TypedDict):
    """How the node is."""

    at_s: float
    """When this was put together; ages in ``health`` count from then."""
    state: str
    """As in the health, or ``stopping``."""
    activity: str
    health: NodeHealth | None
    """As on its topic; null if the engine is elsewhere."""
    fleet: FleetView | None
    """Null if there is none."""


class RequestInHand(TypedDict):
    """A request that waits or is being answered."""

    number: int
    via: str | None
    """The door it came through: ``mqtt``, ``http``, ...; null if that is not known."""
    id: str | None
    """What its sender calls it, over MQTT."""
    at_s: float
    position: int | None
    """In the queue, 1 is next; null if it does not wait."""
    started_at_s: float | None
    first_at_s: float | None
    """When its first text came."""
    tokens: int
    """Generated so far, if the engine tells; else 0."""
    chars: int


class EndedRequest(TypedDict):
    """A request that has come to its end."""

    number: int
    via: str | None
    id: str | None
    at_s: float
    """When it came in."""
    ended_at_s: float
    outcome: str
    """A finish reason, the code of an error, or ``cancelled``."""
    has_failed: bool
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    queue_s: float
    ttft_s: float | None
    total_s: float
    tokens_per_s: float | None
    prompt: NotRequired[str]
    """Its last turn, shortened; only if texts are told."""
    answer: NotRequired[str]
    """Shortened; only if texts are told."""


class Said(TypedDict):
    """A piece of an answer in hand; only if texts are told."""

    number: int
    start: int
    """How many characters of it come before."""
    text: str


class Sample(TypedDict):
    """A reading of the device; null is what could not be read."""

    at_s: float
    card_celsius: float | None
    cmm_used_mib: int | None
    host_celsius: float | None
    host_used_mib: int | None


class Span(TypedDict):
    """From when on the node was as a word says; until the next one."""

    at_s: float
    word: str


class Mark(TypedDict):
    """Something that went wrong, or was done about it."""

    at_s: float
    kind: Literal["fault", "step"]
    word: str
    """The code of the fault, or the step."""
    text: str


class StatusUpdate(TypedDict):
    """What is new; what is absent is as it was."""

    now_s: float
    about: NotRequired[About]
    state: NotRequired[State]
    in_hand: NotRequired[list[RequestInHand]]
    """All of them."""
    said: NotRequired[list[Said]]
    ended: NotRequired[list[EndedRequest]]
    """The new ones, oldest first; so are those below."""
    samples: NotRequired[list[Sample]]
    spans: NotRequired[list[Span]]
    marks: NotRequired[list[Mark]]


class Status(TypedDict):
    """How the node is, and was in the last hour."""

    now_s: float
    about: About
    state: State
    in_hand: list[RequestInHand]
    said: list[Said]
    ended: list[EndedRequest]
    samples: list[Sample]
    spans: list[Span]
    marks: list[Mark]
