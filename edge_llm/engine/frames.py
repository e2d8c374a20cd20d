"""What the core and its worker process say to each other: one JSON object a line.

The end of the stream is the order to stop, so a worker never outlives its core.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from edge_llm.protocol import ChatRequest, ErrorBody, Event, ModelInfo
from edge_llm.settings import EngineSettings

__all__ = [
    "FROM_WORKER",
    "TO_WORKER",
    "Cancel",
    "Failed",
    "Generate",
    "Happened",
    "Loading",
    "Ready",
    "Start",
    "encode",
]


class _Frame(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Start(_Frame):
    """First of all: load the model that the settings name."""

    type: Literal["start"] = "start"
    settings: EngineSettings


class Generate(_Frame):
    """Answer a request; they run one after another."""

    type: Literal["generate"] = "generate"
    id: int
    request: ChatRequest
    resume: tuple[int, ...] = ()
    """Tokens of the answer that an earlier worker has generated."""


class Cancel(_Frame):
    """Give a request up before its next step."""

    type: Literal["cancel"] = "cancel"
    id: int


class Loading(_Frame):
    """Progress of loading, in files."""

    type: Literal["loading"] = "loading"
    done: int
    total: int


class Ready(_Frame):
    """The model is loaded."""

    type: Literal["ready"] = "ready"
    models: tuple[ModelInfo, ...]
    loaded: dict[str, str] = {}
    """For the log: why this runtime, and what the self-test found."""


class Happened(_Frame):
    """An event of a request."""

    type: Literal["happened"] = "happened"
    id: int
    event: Event


class Failed(_Frame):
    """A request failed, or loading did if there is no id."""

    type: Literal["failed"] = "failed"
    id: int | None = None
    error: ErrorBody


TO_WORKER: TypeAdapter[Start | Generate | Cancel] = TypeAdapter(
    Annotated[Start | Generate | Cancel, Field(discriminator="type")]
)
FROM_WORKER: TypeAdapter[Loading | Ready | Happened | Failed] = TypeAdapter(
    Annotated[Loading | Ready | Happened | Failed, Field(discriminator="type")]
)


def encode(frame: _Frame) -> bytes:
    """Return a frame as its line."""
    return frame.model_dump_json(exclude_defaults=False).encode() + b"\n"
