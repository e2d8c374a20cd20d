"""JSON schemas of growing difficulty, as clients send them."""

import datetime
import random
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["PYDANTIC", "SCHEMAS", "Schema"]

Schema = dict[str, Any]

WORDS = ("fox", "moon", "sea", "lamp", "night", "door", "owl", "rain")


class _Colour(StrEnum):
    RED = "red"
    DARK_BLUE = "dark blue"


class _Point(BaseModel):
    x: float = 0.0
    y: float = Field(default=0.0, title="Up", ge=-10, le=10)


class _Person(BaseModel):
    """Somebody."""

    name: str = Field(description="As it is spoken.")
    age: Annotated[int, Field(ge=0, lt=150)]
    born: datetime.date | None = None
    colours: list[_Colour] = []
    where: _Point = _Point()


class _Tree(BaseModel):
    name: Literal["leaf", "branch"]
    children: Annotated[list["_Tree"], Field(max_length=2)] = []


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid")

    explanation: str
    output: str


class _Reasoning(BaseModel):
    model_config = ConfigDict(extra="forbid")

    steps: Annotated[list[_Step], Field(max_length=3)]
    final_answer: str


class _Shape(BaseModel):
    shape: _Point | _Person | None
    by_name: dict[str, int] = {}
    pair: tuple[int, str] = (1, "a")
    is_round: bool


PYDANTIC: list[Schema] = [
    model.model_json_schema() for model in (_Person, _Tree, _Reasoning, _Shape, _Point)
]


def _leaf(dice: random.Random) -> Schema:
    low = dice.randint(-50, 50)
    makers: list[Callable[[], Schema]] = [
        lambda: {"type": "string"},
        lambda: {"type": "string", "minLength": 2, "maxLength": dice.randint(3, 30)},
        lambda: {"type": "string", "pattern": dice.choice(["^[a-z]{2,5}$", "^[A-Z][a-z, ]*$"])},
        lambda: {"type": "string", "pattern": r"^\d{3}-\d{2,4}$"},
        lambda: {"type": "string", "format": dice.choice(["date", "time", "date-time", "uuid"])},
        lambda: {"type": "string", "format": dice.choice(["ipv4", "email"])},
        lambda: {"type": "integer", "minimum": low, "maximum": low + dice.randint(0, 99)},
        lambda: {"type": "number", "exclusiveMinimum": low, "maximum": low + 1.5},
        lambda: {"type": "integer", "multipleOf": dice.choice([2, 5, 10])},
        lambda: {"enum": dice.sample([*WORDS, 1, 2.5, None, True], 4)},
        lambda: {"const": dice.choice([*WORDS, {"a": [1, None]}, 7])},
        lambda: {"type": ["string", "null"], "maxLength": 8},
        lambda: {"type": "boolean"},
        lambda: {"type": "null"},
    ]
    return dice.choice(makers)()


def _array(dice: random.Random, depth: int) -> Schema:
    if dice.random() < 0.2:
        parts = [_schema(dice, depth - 1) for _ in range(2)]
        return {"type": "array", "prefixItems": parts, "items": False, "minItems": 2}
    least = dice.randint(0, 2)
    items = _schema(dice, depth - 1)
    return {"type": "array", "items": items, "minItems": least, "maxItems": least + 2}


def _object(dice: random.Random, depth: int) -> Schema:
    if dice.random() < 0.2:
        return {"type": "object", "additionalProperties": _leaf(dice)}
    if dice.random() < 0.1:
        return {
            "type": "object",
            "patternProperties": {"^[a-z]{1,3}$": _leaf(dice)},
            "additionalProperties": False,
        }
    names = dice.sample(WORDS, dice.randint(1, 4))
    made: Schema = {
        "type": "object",
        "title": "It",
        "properties": {name: _schema(dice, depth - 1) for name in names},
        "required": dice.sample(names, dice.randint(0, len(names))),
    }
    if dice.random() < 0.5:
        made["additionalProperties"] = False
    return made


def _schema(dice: random.Random, depth: int) -> Schema:
    if depth <= 0:
        return _leaf(dice)
    kind = dice.random()
    if kind < 0.2:
        return {"anyOf": [_schema(dice, depth - 1) for _ in range(dice.randint(1, 3))]}
    if kind < 0.45:
        return _array(dice, depth)
    return _object(dice, depth)


def _with_definitions(dice: random.Random, schema: Schema) -> Schema:
    """Hang a schema below one that others refer to, also to itself."""
    node = {
        "type": "object",
        "properties": {
            "value": {"$ref": "#/$defs/Value"},
            "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
        },
        "required": ["value", "next"],
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"https://example.com/{dice.choice(WORDS)}.json",
        "$defs": {"Node": node, "Value": schema},
        "description": "A list.",
        "$ref": "#/$defs/Node",
    }


def _all(num: int) -> list[Schema]:
    made = list(PYDANTIC)
    for number in range(num - len(made)):
        dice = random.Random(number)
        schema = _schema(dice, depth=number * 4 // num)
        made.append(_with_definitions(dice, schema) if number % 10 == 9 else schema)
    return made


SCHEMAS = _all(200)
