"""Refusing by name: fields that are not offered, and what is wrong inside of one field."""

import json
from collections.abc import Mapping

from pydantic import ValidationError

from edge_llm.errors import InvalidRequestError, UnsupportedFieldError
from edge_llm.protocol import translate

__all__ = ["refusal_inside", "refuse_unless_neutral"]


def refuse_unless_neutral(
    values: Mapping[str, object], neutral: Mapping[str, tuple[object, ...]], where: str = ""
) -> None:
    """Check each field that ``neutral`` names against the values that ask for nothing.

    Args:
        values: the fields of a request, or of one message; one that is absent or null is fine.
        neutral: the values that change nothing, by the field's name.
        where: the path to the fields, with its dot.

    Raises:
        UnsupportedFieldError: a field asks for something.
    """
    for name, harmless in neutral.items():
        value = values.get(name)
        if value is not None and value not in harmless:
            instead = " or ".join(["leave it out", *map(json.dumps, harmless)])
            raise UnsupportedFieldError(
                f"'{where}{name}' is not offered by this version of edge-llm: {instead}",
                param=f"{where}{name}",
            )


def refusal_inside(where: str, exc: ValidationError) -> InvalidRequestError:
    """Return what is wrong with a value that was validated by itself; ``where`` is its path."""
    error = translate(exc)
    param = f"{where}.{error.param}" if error.param else where
    return type(error)(f"{where}: {error.message}", param=param)
