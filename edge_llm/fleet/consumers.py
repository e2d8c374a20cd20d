"""Consumers, which hand requests out to nodes: made where they are missing, compared where not.

A setting that differs is named, not overwritten: other nodes take by the same consumer.
"""

from typing import Any

import structlog

__all__ = ["ensure_consumer"]

log = structlog.get_logger()

COMPARED = ("filter_subject", "ack_policy", "ack_wait", "max_ack_pending", "max_deliver")


async def ensure_consumer(js: Any, stream: str, config: Any) -> Any:
    """Find a consumer, or make it; return what the servers tell of it.

    Raises:
        nats.errors.Error: it could not be made.
    """
    from nats.js.errors import NotFoundError

    try:
        found = await js.consumer_info(stream, config.durable_name)
    except NotFoundError:
        return await js.add_consumer(stream, config)
    wrong = [
        f"{key} {theirs}, and this node wants {ours}"
        for key in COMPARED
        if (ours := getattr(config, key)) is not None
        and (theirs := getattr(found.config, key)) != ours
    ]
    if wrong:
        log.warning(
            "fleet.consumer_differs",
            stream=stream,
            consumer=config.durable_name,
            settings=wrong,
            do=f"nats consumer edit {stream} {config.durable_name}, or, while all nodes are "
            "stopped, nats consumer rm, and they make it anew",
        )
    return found
