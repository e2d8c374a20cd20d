"""What the core and its worker process say to each other: one JSON object a line.

The end of the stream is the order to stop, so a worker never outlives its core.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from edge_llm.protocol import ChatRequest, ErrorBody, Event, Message, ModelInfo
from edge_llm.settings import EngineSettings

__all__ = [
    "FROM_WORKER",
    "TO_WORKER",
    "Cancel",
    "Check",
    "Checked",
    "Failed",
    "Frame",
    "FromWorker",
    "Generate",
    "GivenUp",
    "Happened",
    "Loading",
    "Pace",
    "Prepare",
    "Probe",
    "Probed",
    "Ready",
    "Start",
    "ToWorker",
    "encode",
]


class Frame(BaseModel):
    """What all frames are."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)


class Start(Frame):
    """First of all: load the model that the settings name."""

    type: Literal["start"] = "start"
    settings: EngineSettings


class Generate(Frame):
    """Answer a request; they run one after another."""

    type: Literal["generate"] = "generate"
    id: int
    request: ChatRequest
    """Its time budget, if it has one, counts from when the frame is read."""
    resume: tuple[int, ...] = ()
    """Tokens of the answer that have been generated before: by a worker that died, or by this one,
    before the request was paused."""


class Check(Frame):
    """Say at once whether a request could be answered; answered with ``Checked``."""

    type: Literal["check"] = "check"
    id: int
    request: ChatRequest


class Cancel(Frame):
    """Give a request up before its next step; answered with ``GivenUp`` if it was in hand."""

    type: Literal["cancel"] = "cancel"
    id: int


class Prepare(Frame):
    """Keep the KV rows of these beginnings of conversations ready, the most wanted one first."""

    type: Literal["prepare"] = "prepare"
    conversations: tuple[tuple[Message, ...], ...]


class Probe(Frame):
    """Compute one token, to see whether that works; answered with ``Probed``, or ``Failed``."""

    type: Literal["probe"] = "probe"
    id: int


class Pace(Frame):
    """Work only for a part of the time from now on: rest after each step."""

    type: Literal["pace"] = "pace"
    duty: float


class Loading(Frame):
    """Progress of loading, in files."""

    type: Literal["loading"] = "loading"
    done: int
    total: int


class Ready(Frame):
    """The model is loaded."""

    type: Literal["ready"] = "ready"
    models: tuple[ModelInfo, ...]
    loaded: dict[str, str] = {}
    """For the log: why this runtime, and what the self-test found."""


class Happened(Frame):
    """An event of a request."""

    type: Literal["happened"] = "happened"
    id: int
    event: Event


class Checked(Frame):
    """What is wrong with a request; nothing, as a rule."""

    type: Literal["checked"] = "checked"
    id: int
    error: ErrorBody | None = None


class Probed(Frame):
    """A token was computed for nobody."""

    type: Literal["probed"] = "probed"
    id: int


class GivenUp(Frame):
    """A request was cancelled before it ended, and is out of hand."""

    type: Literal["given_up"] = "given_up"
    id: int


class Failed(Frame):
    """A request failed, or loading did if there is no id."""

    type: Literal["failed"] = "failed"
    id: int | None = None
    error: ErrorBody


ToWorker = Start | Generate | Check | Cancel | Prepare | Probe | Pace
FromWorker = Loading | Ready | Happened | Checked | Probed | GivenUp | Failed

TO_WORKER: TypeAdapter[ToWorker] = TypeAdapter(Annotated[ToWorker, Field(discriminator="type")])
FROM_WORKER: TypeAdapter[FromWorker] = TypeAdapter(
    Annotated[FromWorker, Field(discriminator="type")]
)


def encode(frame: Frame) -> bytes:
    """Return a frame as its line."""
    return frame.model_dump_json(exclude_defaults=False).encode() + b"\n"
