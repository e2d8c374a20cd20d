"""The streams and buckets of a fleet: made where they are missing, and compared where they are not.

A setting that differs is named, not overwritten: other nodes rely on it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from edge_llm.errors import ConfigurationError
from edge_llm.fleet.names import FleetNames
from edge_llm.settings import FleetSettings

__all__ = ["Comparison", "compare", "set_up"]

log = structlog.get_logger()

DUPLICATE_WINDOW_S = 120.0
MAX_KEPT = 10_000
"""Answers, or conversations; the oldest go first."""
COMPARED = ("subjects", "retention", "max_age", "max_msgs_per_subject", "duplicate_window")
MANY = 3
"""Servers that keep a copy each; with fewer than that many no copy can be lost."""


@dataclass(slots=True)
class Comparison:
    """How what is at the servers compares with what a node wants.

    Attributes:
        missing: streams that nobody has made yet.
        wrong: what a node would not start with, in words.
        few: streams with fewer copies than there could be; how many, and how many there could be.
        bounds: buckets that keep another number of entries, and how many.
    """

    missing: list[Any] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    few: list[tuple[str, int, int]] = field(default_factory=list)
    bounds: list[tuple[str, int, int]] = field(default_factory=list)

    def note(self, wanted: Any, found: Any) -> None:
        """Compare a stream."""
        name = wanted.name
        self.wrong += _differences(wanted, found)
        if wanted.max_msgs is not None and wanted.max_msgs != found.max_msgs:
            self.bounds.append((name, found.max_msgs, wanted.max_msgs))
        if wanted.num_replicas > (found.num_replicas or 1):  # made when there was one server
            self.few.append((name, found.num_replicas or 1, wanted.num_replicas))


async def compare(client: Any, names: FleetNames, settings: FleetSettings) -> Comparison:
    """Look at what is there, and make nothing.

    Raises:
        nats.errors.Error: nobody could say.
    """
    from nats.js.errors import NotFoundError

    js, comparison = client.jetstream(), Comparison()
    for config in _configs(names, settings, _copies(client, settings)):
        try:
            comparison.note(config, (await js.stream_info(config.name)).config)
        except NotFoundError:
            comparison.missing.append(config)
    return comparison


async def set_up(client: Any, names: FleetNames, settings: FleetSettings) -> None:
    """Make what is missing.

    Raises:
        ConfigurationError: something is there already and has other settings.
    """
    from nats.js.errors import BadRequestError

    js, comparison = client.jetstream(), await compare(client, names, settings)
    for config in comparison.missing:
        try:
            await js.add_stream(config)
            log.info("fleet.made", stream=config.name, replicas=config.num_replicas)
        except BadRequestError:  # another node was faster
            comparison.note(config, (await js.stream_info(config.name)).config)
    for name, found, wanted in comparison.bounds:
        do = f"nats stream edit {name} --max-msgs {wanted}"
        log.warning("fleet.other_bound", stream=name, max_msgs=found, do=do)
    for name, found, wanted in comparison.few:
        do = f"nats stream edit {name} --replicas {wanted}"
        log.warning("fleet.few_copies", stream=name, replicas=found, do=do)
    if comparison.wrong:
        raise ConfigurationError(
            f"the fleet has other settings at its servers: {'; '.join(comparison.wrong)}. Set this "
            "node as the others are, or stop all of them, and change it with 'nats stream edit'",
            param="fleet",
        )


def _copies(client: Any, settings: FleetSettings) -> int:
    """Return how many servers are to keep each message: those that we are told of count, too."""
    return MANY if max(len(set(client.servers)), len(settings.servers)) >= MANY else 1


def _configs(names: FleetNames, settings: FleetSettings, copies: int) -> Iterator[Any]:
    from nats.js.api import RetentionPolicy, StreamConfig

    common: Mapping[str, Any] = {
        "retention": RetentionPolicy.WORK_QUEUE,
        "num_replicas": copies,
        "duplicate_window": DUPLICATE_WINDOW_S,
    }
    yield StreamConfig(name=names.requests, subjects=[names.request_subjects], **common)
    yield StreamConfig(name=names.work, subjects=[names.work_subjects], **common)
    bucket: Mapping[str, Any] = {
        "retention": RetentionPolicy.LIMITS,
        "max_msgs_per_subject": 1,
        "max_msgs": MAX_KEPT,  # names come from outside, and must not pile up
        "allow_rollup_hdrs": True,
        "num_replicas": copies,
    }
    for name, max_age_s in (
        (names.answers, settings.answers_age_s),
        (names.sessions, settings.sessions_age_s),
        (names.locks, settings.lease_s),
    ):
        yield StreamConfig(
            name=f"KV_{name}",
            subjects=[f"$KV.{name}.>"],
            max_age=max_age_s,
            duplicate_window=min(DUPLICATE_WINDOW_S, max_age_s),
            **bucket,
        )


def _differences(wanted: Any, found: Any) -> Iterator[str]:
    for key in COMPARED:
        ours, theirs = getattr(wanted, key), getattr(found, key)
        if (ours or None) != (theirs or None):
            yield f"{wanted.name} has {key} {theirs}, and this node wants {ours}"
