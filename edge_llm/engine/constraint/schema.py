"""JSON schemas as clients send them, made ready for the grammar.

Held to in full: types, properties and their order, ``required``, ``additionalProperties``,
``patternProperties``, items, ``prefixItems``, ``enum``, ``const``, ``anyOf``, ``allOf``, ``$ref``
inside the schema, lengths, ranges, ``multipleOf``, ``pattern``, and the usual ``format``.

Not held to, and not refused either, as a client's library puts them in by habit: ``not``,
``if``/``then``/``else``, ``contains``, ``uniqueItems``, ``propertyNames``, ``dependentRequired``,
``dependentSchemas``, ``unevaluatedProperties``, ``unevaluatedItems`` and unknown values of
``format``; ``oneOf`` counts as ``anyOf``.
"""

import json
from collections.abc import Iterator
from typing import Any

__all__ = ["Schema", "schema_part"]

Schema = dict[str, Any]

OPTIONS = {
    "lenient": True,
    "coerce_one_of": True,
    # A weak model with a choice of white space never stops writing it.
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""Of llguidance: JSON as models have read most of it."""

ONE_BELOW = ("items", "additionalProperties", "not", "contains", "propertyNames")
SOME_BELOW = ("anyOf", "allOf", "oneOf", "prefixItems", "items")
NAMED_BELOW = ("properties", "patternProperties", "$defs", "definitions")
"""Keys whose values are schemas; what stands in ``enum``, ``const`` or ``default`` is data."""

LARGEST = 10**15 - 1  # of 15 digits: a range that ends in nines compiles in half the time
LIMITING = (
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("multipleOf", "enum", "const", "allOf", "$ref"),
)
MIXING = ("allOf", "anyOf", "oneOf", "$ref", "if", "patternProperties", "dependentSchemas")


def schema_part(schema: Schema) -> str:
    """Return a schema as the part of a grammar that matches its JSON."""
    ready = json.loads(json.dumps(schema))
    _close(ready)
    _bound(ready)
    return f"%json {json.dumps({**ready, 'x-guidance': OPTIONS})}"


def _close(schema: Schema) -> None:
    """Keep objects to the properties that they list, unless the schema says that they may be more.

    JSON Schema allows any others, but nobody who lists properties wants names that a model has made
    up. Where schemas are put together from parts, a part that is closed would shut out the others,
    so such a schema is left as it is.
    """
    if any(_is_mixed(each) for each in _walk(schema)):
        return
    for each in _walk(schema):
        if isinstance(each.get("properties"), dict):
            each.setdefault("additionalProperties", False)


def _bound(schema: Schema) -> None:
    """Keep integers without limits to those that all receivers know (RFC 8259, section 6).

    Or a weak model may go on with digits until its last token.
    """
    for each in _walk(schema):
        if each.get("type") == "integer" and not any(key in each for key in LIMITING):
            each.update(minimum=-LARGEST, maximum=LARGEST)


def _is_mixed(schema: Schema) -> bool:
    """Tell whether several schemas say together what an object has."""
    parts = schema.get("allOf")
    if isinstance(parts, list) and len(parts) > 1:
        return True
    return "properties" in schema and any(key in schema for key in MIXING)


def _walk(schema: Any) -> Iterator[Schema]:
    """Yield a schema and all schemas inside it."""
    if not isinstance(schema, dict):  # true and false are schemas too
        return
    yield schema
    below = [schema.get(key) for key in ONE_BELOW]
    for key in SOME_BELOW:
        below += schema[key] if isinstance(schema.get(key), list) else ()
    for key in NAMED_BELOW:
        below += schema[key].values() if isinstance(schema.get(key), dict) else ()
    for each in below:
        yield from _walk(each)
