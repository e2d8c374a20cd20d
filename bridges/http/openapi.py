"""``GET /openapi.json``: all that this bridge takes and replies, for people and for generators.

Made of the very types that requests are validated with and replies are built as.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from aiohttp import web
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from bridges.http.endpoint import Endpoint
from edge_llm import __version__

__all__ = ["describe", "make_endpoint"]

Mode = Literal["validation", "serialization"]

REFS = "#/components/schemas/{model}"
PATH_PARAMETER = re.compile(r"\{(\w+)(?::[^{}]*)?\}")
STREAM_TYPES = {"/api/": "application/x-ndjson"}


class OpenAIErrorBody(TypedDict):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(TypedDict):
    """OpenAI's error object."""

    error: OpenAIErrorBody


class OllamaError(TypedDict):
    """Ollama's."""

    error: str


ERRORS: Mapping[str, Any] = {"/api/": OllamaError, "/": OpenAIError}
"""By the beginning of the path; the first that fits counts."""

DESCRIPTION = """\
The dialects of OpenAI (`/v1`, and `/openai` for Azure's clients) and Ollama (`/api`), over the
engine that also answers MQTT. OpenAI's paths refuse fields that do not exist, by
name; Ollama's ignore them. Each error has a stable code; `docs/protocol.md` lists them.
"""


def describe(endpoints: Sequence[Endpoint], *, needs_key: bool) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of these endpoints.

    Args:
        endpoints: all of them.
        needs_key: requests must have an API key.
    """
    schemas = _Schemas(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = PATH_PARAMETER.sub(r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "edge-llm", "version": __version__, "description": DESCRIPTION},
        "paths": paths,
        "components": {"schemas": schemas.definitions},
    }
    if needs_key:
        schemes = {"key": {"type": "http", "scheme": "bearer"}}
        document["components"]["securitySchemes"] = schemes
        document["security"] = [{"key": []}]
    return document


def make_endpoint(endpoints: Sequence[Endpoint], *, needs_key: bool) -> Endpoint:
    """Make the endpoint that gives the description."""
    document = describe(endpoints, needs_key=needs_key)

    async def openapi(request: web.Request) -> web.Response:
        """Describe all endpoints as OpenAPI."""
        return web.json_response(document)

    return Endpoint("GET", "/openapi.json", openapi, dict[str, Any])


class _Schemas:
    """The JSON schemas of all types, under names that do not collide."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        inputs: dict[tuple[str, Mode], tuple[str, Mode, TypeAdapter[Any]]] = {}
        for endpoint in endpoints:
            if endpoint.body is not None:
                self._want(inputs, endpoint.body, "validation")
            for kind in (endpoint.reply, endpoint.chunk):
                if kind is not None:
                    self._want(inputs, kind, "serialization")
        for kind in ERRORS.values():
            self._want(inputs, kind, "serialization")
        keys, rest = TypeAdapter.json_schemas(inputs.values(), ref_template=REFS)
        self._schemas = keys
        self.definitions = rest.get("$defs", {})

    @staticmethod
    def _want(
        inputs: dict[tuple[str, Mode], tuple[str, Mode, TypeAdapter[Any]]], kind: Any, mode: Mode
    ) -> None:
        inputs[str(kind), mode] = (str(kind), mode, TypeAdapter(kind))

    def of(self, kind: Any, mode: Mode) -> Any:
        return self._schemas[str(kind), mode]


def _operation(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    what = (endpoint.handler.__doc__ or "").strip()
    replies = {"application/json": {"schema": schemas.of(endpoint.reply, "serialization")}}
    if endpoint.chunk is not None:
        stream_type = _by_prefix(STREAM_TYPES, endpoint.path, "text/event-stream")
        chunk = schemas.of(endpoint.chunk, "serialization")
        failure = schemas.of(OpenAIError, "serialization")
        replies[stream_type] = {"schema": _stream_schema(stream_type, {"anyOf": [chunk, failure]})}
    failure = endpoint.error or _by_prefix(ERRORS, endpoint.path, OpenAIError)
    error = {"application/json": {"schema": schemas.of(failure, "serialization")}}
    operation: dict[str, Any] = {
        "summary": what.partition("\n")[0],
        "responses": {
            "200": {"description": "The reply.", "content": replies},
            "default": {"description": "Why there is none.", "content": error},
        },
    }
    if names := PATH_PARAMETER.findall(endpoint.path):
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if endpoint.body is not None:
        schema = schemas.of(endpoint.body, "validation")
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _stream_schema(stream_type: str, chunk: Any) -> dict[str, Any]:
    """Describe a stream: OpenAPI 3.1 has a schema for one event, but none for one line."""
    if stream_type == "text/event-stream":
        json = {"type": "string", "contentMediaType": "application/json", "contentSchema": chunk}
        data = {"anyOf": [{"const": "[DONE]"}, json]}
        return {"type": "object", "required": ["data"], "properties": {"data": data}}
    return {"type": "string", "description": "JSON, one object a line.", "x-each-line": chunk}


def _by_prefix(table: Mapping[str, Any], path: str, otherwise: Any) -> Any:
    return next((value for prefix, value in table.items() if path.startswith(prefix)), otherwise)
