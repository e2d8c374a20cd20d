"""Changes JSON by its structure: a value for another, a name for another, deeper, longer, twice."""

import json
import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

__all__ = ["json_mutator", "json_words"]

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 20, 0.5, -0.5, 2**31, 2**63, 2**64, 10**30, 1e308, 5e-324),
    *("", " ", "a", "\x00", "\n", "\u200d", "\U0001f98a", "null", "1", "-1", "x" * 300),
    *([], [None], [[]], [{}], {}, {"": None}, {"type": None}, {"type": "function"}, {"a": []}),
)
LITERALS = (b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b"[" * 400, b'{"a":' * 400, b"9" * 5000)
"""What Python's own JSON reads and others don't, or the other way round."""

Mutator = Callable[[bytes, int], bytes]


def json_mutator(num_before: int = 0) -> Mutator:
    """Make what changes inputs that are JSON behind so many bytes."""

    def mutate(data: bytes, seed: int) -> bytes:
        chance = random.Random(seed)
        head, body = data[:num_before], data[num_before:]
        if num_before and chance.random() < 0.1:
            head = bytes(chance.randrange(256) for _ in range(num_before))
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return head + body
        for _ in range(chance.randint(1, 3)):
            value = _change(value, chance)
        try:
            text = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode()
        except (ValueError, RecursionError):
            return head + body
        if chance.random() < 0.05:
            text = text.replace(b"null", chance.choice(LITERALS), 1)
        return head + text

    return mutate


def json_words(*names: str) -> list[str]:
    """Return names as they stand in JSON, and what else JSON is made of."""
    quoted = [json.dumps(name) for name in names]
    return [*quoted, "null", "true", "false", "-1", "1e308", "[]", "{}", '""', "\\ud800", "NaN"]


def _change(value: Any, chance: random.Random) -> Any:
    places = list(_places(value))
    if not places or chance.random() < 0.02:
        return deepcopy(chance.choice(ODD))
    inside, key = chance.choice(places)
    match chance.randrange(7):
        case 0:
            inside[key] = deepcopy(chance.choice(ODD))
        case 1:  # what stands elsewhere
            other, from_key = chance.choice(places)
            inside[key] = json.loads(json.dumps(other[from_key]))
        case 2:
            del inside[key]
        case 3:
            inside[key] = [inside[key]] * chance.choice((1, 2, 200))
        case 4 if isinstance(inside, dict):  # under another name
            names = [name for each, name in places if isinstance(each, dict)]
            inside[chance.choice(names)] = inside[key]
        case 5:
            inside[key] = _other(inside[key], chance)
        case _ if isinstance(inside, list):
            inside.insert(key, deepcopy(chance.choice(ODD)))
        case _:
            inside[chance.choice(("x", "type", "content", ""))] = deepcopy(chance.choice(ODD))
    return value


def _other(value: Any, chance: random.Random) -> Any:
    if isinstance(value, str):
        at = chance.randint(0, len(value))
        return value[:at] + chance.choice(("", "\n", "\x00", " ", "a", "/", "\ufffd")) + value[at:]
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return chance.choice((value + 1, -value, value * 1000, float(value), str(value)))
    return {"value": value}


def _places(value: Any) -> Any:
    """Yield what holds each value inside of this one, and where."""
    pairs = list(value.items()) if isinstance(value, dict) else []
    pairs = list(enumerate(value)) if isinstance(value, list) else pairs
    for key, below in pairs:
        yield value, key
        yield from _places(below)
