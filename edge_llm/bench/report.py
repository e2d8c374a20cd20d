"""What a run of the benchmark found out, as it is saved: the names are those of the JSON."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "SCHEMA",
    "Budget",
    "Bus",
    "Conditions",
    "Decode",
    "FirstSentence",
    "Machine",
    "Model",
    "Prefill",
    "Published",
    "Report",
]

SCHEMA = 1
"""Raised when a field changes its meaning; fields are only added otherwise."""


class _Saved(BaseModel):
    """What a newer version has added is left out when it is read."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class Machine(_Saved):
    """What it ran on."""

    name: str
    """The board, or the processor."""
    architecture: str
    cores: int | None
    memory_bytes: int | None
    kernel: str
    python: str
    governor: str | None = None
    """How the kernel chooses the clock of the first core, if it says."""


class Conditions(_Saved):
    """What may make a machine slower than it is; what could not be read is null."""

    host_cpu_percent: float | None = None
    """Load of all cores, during the second before; after, during the run."""
    host_celsius: float | None = None
    card_celsius: float | None = None
    throttled: tuple[str, ...] | None = None
    """What holds a Raspberry Pi back now; see ``llm/node/<node>/health``."""
    pcie_speed_gts: float | None = None
    """Of the card's link, in GT/s per lane."""
    pcie_width: int | None = None
    """Lanes in use."""


class Model(_Saved):
    """What was measured."""

    name: str
    runtime: str | None
    """What runs it, and how."""
    quantization: str | None
    context_len: int
    vocab_size: int
    num_layers: int | None = None
    embedding_bytes: int | None = None
    """Of its table: two for each value of each row. None where another server has the model."""


class Prefill(_Saved):
    """How fast a prompt is computed that shares nothing with an earlier one."""

    length: int
    """Tokens that were aimed at."""
    prompt_tokens: int
    """Tokens that it had."""
    cached_tokens: int
    """Of these, what every prompt begins with, and was still there."""
    ttft_s: float
    """From the request to the first token, in seconds: the median of ``rounds``."""
    tokens_per_s: float
    """Tokens that were computed, by that time."""
    rounds: int


class Decode(_Saved):
    """How fast tokens come after the first one."""

    tokens: int
    tokens_per_s: float
    token_ms_p50: float
    """Between two pieces of text, in ms: half of the times are shorter."""
    token_ms_p95: float
    """As above: 95 % of them are."""
    pieces: int
    """Pieces of text that came; fewer than the tokens where some were no text by themselves."""


class Bus(_Saved):
    """What crosses PCIe for a token, and how fast copies are."""

    runtime: str
    """Its version."""
    firmware: str
    """As the card says."""
    up_bytes_per_token: int
    """To the card, counted while tokens were decoded."""
    down_bytes_per_token: int
    """From the card."""
    copies_per_token: int
    """Up, down and on the card."""
    up_mb_per_s: float
    """In blocks of 4 MiB; a MB is 10^6 bytes."""
    down_mb_per_s: float
    small_copy_ms: float
    """A copy of 4 KiB to the card, median."""


class FirstSentence(_Saved):
    """When speech can begin: the median of ``rounds`` answers."""

    ttft_s: float
    """From the request to the first text, in seconds."""
    sentence_s: float
    """To the end of the first sentence, in seconds."""
    chars: int
    """Of that sentence."""
    rounds: int


class Budget(_Saved):
    """What an answer with ``time_budget_s`` says: the one in the middle of ``rounds``."""

    budget_s: float
    tokens: int
    """That were generated; 0 if nothing could be said in time."""
    words: int
    """That were said."""
    sentences: int
    """That were said."""
    took_s: float
    finish_reason: str
    """``stop`` if the answer was over before its time was; ``expired`` if nothing was said."""
    tokens_at_speed: int
    """For how many tokens there is time at the speeds above, if the answer were long enough."""
    rounds: int


class Published(_Saved):
    """What somebody published of this model, beside what was measured here."""

    model: str
    """Its name in ``edge-llm model list``."""
    quantization: str
    is_same: bool
    """It has the name of what was measured, and not only its size."""
    source: str
    host: str
    certainty: str
    is_superseded: bool = False
    tokens_per_s: float
    """Published; of a range the least."""
    tokens_per_s_ratio: float
    """Measured by published: above 1 is faster here."""
    ttft_s: float | None = None
    ttft_ratio: float | None = None
    """As above, of prompts of about the same length: below 1 is faster here."""
    load_s: float | None = None
    load_ratio: float | None = None
    """As above: below 1 is faster here."""


class Report(_Saved):
    """A whole run."""

    schema_version: int = Field(default=SCHEMA, alias="schema", ge=1)
    version: str
    """Of edge-llm."""
    taken_at: str
    """When it began: ISO 8601, UTC."""
    plan: Literal["full", "short"]
    simulated: bool
    """The card is a simulated one: its speeds say nothing about a real one."""
    machine: Machine
    model: Model
    before: Conditions
    after: Conditions
    load_s: float
    """From the start of the worker until it can answer, in seconds."""
    prefill: tuple[Prefill, ...]
    decode: Decode
    bus: Bus | None
    """None where no copies cross a bus of ours; ``bus_note`` says why."""
    bus_note: str | None = None
    first_sentence: FirstSentence
    budget: Budget
    published: tuple[Published, ...] = ()
    caveats: tuple[str, ...] = ()
    """What makes these figures less than they seem, in sentences for people."""

    model_config = ConfigDict(
        validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )
