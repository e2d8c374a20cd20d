"""The first writer wins: how nodes agree at their servers' buckets."""

from typing import Any

__all__ = ["put_first"]

NOTHING_YET = {"Nats-Expected-Last-Subject-Sequence": "0"}


async def put_first(js: Any, subject: str, data: bytes) -> bool:
    """Write to a bucket if nobody has; tell whether it was written.

    Args:
        js: NATS' client for its streams.
        subject: of the entry.
        data: of the entry.

    Raises:
        nats.errors.Error: nobody could say.
    """
    from nats.js.errors import BadRequestError

    try:
        await js.publish(subject, data, headers=NOTHING_YET)
    except BadRequestError:
        return False
    return True
