"""The first writer wins: how nodes agree at their servers' buckets."""

from typing import Any

__all__ = ["put_first"]


async def put_first(js: Any, subject: str, data: bytes, after: int = 0) -> bool:
    """Write to a bucket if nobody has; tell whether it was written.

    Args:
        js: NATS' client for its streams.
        subject: of the entry.
        data: of the entry.
        after: the number of the entry that it takes the place of; none may be there otherwise.

    Raises:
        nats.errors.Error: nobody could say.
    """
    from nats.js.errors import BadRequestError

    try:
        last = {"Nats-Expected-Last-Subject-Sequence": str(after)}
        await js.publish(subject, data, headers=last)
    except BadRequestError:
        return False
    return True
