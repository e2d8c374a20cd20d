"""What all that crosses the wire has in common: how strictly it is read."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

__all__ = ["MAX_PAYLOAD_BYTES", "NonEmptyText", "Told", "Wire"]

MAX_PAYLOAD_BYTES = 256 * 1024
"""More than any context holds; larger requests are refused before they are parsed."""

NonEmptyText = Annotated[str, StringConstraints(min_length=1)]


class Wire(BaseModel):
    """What others send: a field that does not exist is refused by name."""

    # Strict, so that "5" is not a number and 1 is not true; JSON's NaN is refused.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
    )


class Told(Wire):
    """What a node says: a newer one's message is read without what we don't know yet."""

    model_config = ConfigDict(extra="ignore")
