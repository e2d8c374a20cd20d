"""One path of a dialect: who answers it, what it takes, and what it replies."""

from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

__all__ = ["Endpoint"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A row of a dialect's table, for the router and for ``/openapi.json``."""

    method: str
    path: str
    """As aiohttp writes it, with ``{name}`` or ``{name:regex}``."""
    handler: Handler
    """Its docstring says what the path is for."""
    reply: Any
    """A TypedDict: the reply as one JSON object."""
    body: type[BaseModel] | None = None
    """What the body must be, if there is one."""
    chunk: Any = None
    """A TypedDict: one object of a streamed reply; none if it can't be streamed."""
    error: Any = None
    """A TypedDict: what a failure looks like, if not as everywhere in its dialect."""

    @property
    def route(self) -> web.RouteDef:
        """What aiohttp's router takes."""
        return web.route(self.method, self.path, self.handler)
