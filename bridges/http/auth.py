"""API keys: who asks, whether they may, and how often.

The settings hold the SHA-256 of each key. That is enough, and quick enough for every request: keys
are made at random by ``make_key``, so there is nothing to guess. All of them are compared, each in
constant time, so that the time tells nothing.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from structlog.contextvars import bound_contextvars

from bridges.http.rate_limit import RateLimit
from edge_llm.errors import AuthenticationError, RateLimitedError
from edge_llm.settings import ApiKeySettings

__all__ = ["Keys", "hash_key", "make_auth_middleware", "make_key"]

log = structlog.get_logger()

KEY_BYTES = 24
OPEN_PATHS = ("/health", "/health/ready")
"""For load balancers; they tell nothing but whether the node works."""


def make_key() -> str:
    """Make a new key, which looks like OpenAI's: some clients check."""
    return f"sk-{secrets.token_urlsafe(KEY_BYTES)}"


def hash_key(key: str) -> str:
    """Return what the settings hold of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """The keys of a node.

    Args:
        settings: their hashes and limits.
        clock: gives the time, in seconds.
    """

    def __init__(
        self, settings: Sequence[ApiKeySettings], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = [
            (key, RateLimit(key.requests_per_min, clock) if key.requests_per_min else None)
            for key in settings
        ]

    def admit(self, presented: str | None) -> str:
        """Return the name of the key that was presented, and count the request.

        Raises:
            AuthenticationError: there is none, or it is not one of ours.
            RateLimitedError: it has been used too often.
        """
        if not presented:
            raise AuthenticationError(
                "an API key is needed, as 'Authorization: Bearer KEY' (or 'api-key: KEY')"
            )
        digest = hash_key(presented)
        found = [pair for pair in self._keys if hmac.compare_digest(digest, pair[0].sha256)]
        if not found:
            raise AuthenticationError("this API key is not one of this node's")
        key, limit = found[0]
        if limit and (wait_s := limit.take()):
            raise RateLimitedError(
                f"key {key.name!r} may ask {key.requests_per_min:g} times a minute",
                retry_after_s=wait_s,
            )
        return key.name


def make_auth_middleware(settings: Sequence[ApiKeySettings]) -> Middleware:
    """Make what refuses requests without a key, if there are keys at all."""
    keys = Keys(settings)

    @web.middleware
    async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
        # A browser asks with OPTIONS whether it may send the key.
        if settings and request.path not in OPEN_PATHS and request.method != "OPTIONS":
            try:
                name = keys.admit(_presented(request))
            except (AuthenticationError, RateLimitedError) as error:
                log.warning("request.rejected", code=error.code, path=request.path)
                raise
            with bound_contextvars(api_key=name):
                return await handler(request)
        return await handler(request)

    return admit


def _presented(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return request.headers.get("api-key") or request.headers.get(
        "X-Api-Key"
    )  # Azure's; Anthropic's
