"""The form that an answer must have."""

from typing import Annotated, Any, Literal

from pydantic import Field

from edge_llm.protocol.wire import NonEmptyText, Wire

__all__ = [
    "JsonObjectFormat",
    "JsonSchema",
    "JsonSchemaFormat",
    "RegexFormat",
    "ResponseFormat",
    "TextFormat",
]


class TextFormat(Wire):
    """Free text."""

    type: Literal["text"]


class JsonObjectFormat(Wire):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(Wire):
    """A JSON schema with a name."""

    name: str = "answer"
    """For people."""
    description: str | None = None
    """For people."""
    schema_: dict[str, Any] = Field(alias="schema", default_factory=dict)
    """JSON Schema, draft 2020-12; empty allows any JSON value."""
    strict: bool | None = None
    """Ignored: answers always keep to the schema."""


class JsonSchemaFormat(Wire):
    """JSON that a schema allows."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class RegexFormat(Wire):
    """Text that a regular expression matches as a whole."""

    type: Literal["regex"]
    regex: NonEmptyText
    """In the syntax of Rust's regex crate: no look-around, no back-references."""


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat, Field(discriminator="type")
]
