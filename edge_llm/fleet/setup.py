"""The streams and buckets of a fleet: made where they are missing, and compared where they are not.

A setting that differs is named, not overwritten: other nodes rely on it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import structlog

from edge_llm.errors import ConfigurationError
from edge_llm.fleet.names import FleetNames
from edge_llm.settings import FleetSettings

__all__ = ["set_up"]

log = structlog.get_logger()

DUPLICATE_WINDOW_S = 120.0
MAX_KEPT = 10_000
"""Answers, or conversations; the oldest go first."""
COMPARED = ("subjects", "retention", "max_age", "max_msgs_per_subject", "duplicate_window")
MANY = 3
"""Servers that keep a copy each; with fewer than that many no copy can be lost."""


async def set_up(client: Any, names: FleetNames, settings: FleetSettings) -> None:
    """Make what is missing.

    Raises:
        ConfigurationError: something is there already and has other settings.
    """
    from nats.js.errors import BadRequestError, NotFoundError

    js = client.jetstream()
    copies = _copies(client, settings)
    wrong: list[str] = []
    for config in _configs(names, settings, copies):
        try:
            found = (await js.stream_info(config.name)).config
        except NotFoundError:
            try:
                await js.add_stream(config)
                log.info("fleet.made", stream=config.name, replicas=config.num_replicas)
                continue
            except BadRequestError:  # another node was faster
                found = (await js.stream_info(config.name)).config
        wrong += _differences(config, found)
        if config.max_msgs is not None and config.max_msgs != found.max_msgs:
            log.warning(
                "fleet.other_bound",
                stream=config.name,
                max_msgs=found.max_msgs,
                do=f"nats stream edit {config.name} --max-msgs {config.max_msgs}",
            )
        if config.num_replicas > (found.num_replicas or 1):  # made when there was one server
            log.warning(
                "fleet.few_copies",
                stream=config.name,
                replicas=found.num_replicas,
                do=f"nats stream edit {config.name} --replicas {config.num_replicas}",
            )
    if wrong:
        raise ConfigurationError(
            f"the fleet has other settings at its servers: {'; '.join(wrong)}. Set this node as "
            "the others are, or stop all of them, and change it with 'nats stream edit'",
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
