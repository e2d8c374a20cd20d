"""The files of the page. They hold nothing of the node, so whoever reaches the address gets them.

Nothing in them may come from elsewhere or be made of text: the policy below makes the browser
refuse it, whatever a mistake in the page would let in.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

__all__ = ["FILES", "PAGE_VERSION", "File", "routes", "serve_files"]

STATIC = Path(__file__).parent / "static"
INDEX = "index.html"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Cache-Control": "no-cache",  # asked for each time, and answered with 304
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept",
}


@dataclass(frozen=True, slots=True)
class File:
    """A file as it is served."""

    body: bytes
    content_type: str
    etag: str

    def reply(self, request: web.Request) -> web.Response:
        """Make the response; without the body if the browser has it."""
        tags = [tag.value for tag in request.if_none_match or ()]
        if self.etag in tags or "*" in tags:
            response = web.Response(status=304, headers=HEADERS)
        else:
            response = web.Response(
                body=self.body, content_type=self.content_type, charset="utf-8", headers=HEADERS
            )
        response.etag = self.etag
        return response


def _load() -> Mapping[str, File]:
    files = {}
    for path in sorted(STATIC.iterdir()):
        body = path.read_bytes()
        where = "/" if path.name == INDEX else f"/page/{path.name}"
        etag = hashlib.sha256(body).hexdigest()[:16]
        files[where] = File(body, TYPES[path.suffix], etag)
    return files


FILES = _load()
"""By the path that they are served at."""
PAGE_VERSION = hashlib.sha256("".join(file.etag for file in FILES.values()).encode()).hexdigest()[
    :8
]


@web.middleware
async def serve_files(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Serve the page before a key is asked for; ``/`` only to whoever wants HTML.

    Ollama's clients look there, too, for whether anybody is at home.
    """
    file = FILES.get(request.path) if request.method in ("GET", "HEAD") else None
    if file and (request.path != "/" or "text/html" in request.headers.get("Accept", "")):
        return file.reply(request)
    return await handler(request)


async def _file(request: web.Request) -> web.Response:
    return FILES[request.path].reply(request)


# The middleware answers them; in the router they have a name for the metrics.
routes = [web.get(path, _file) for path in FILES if path != "/"]
