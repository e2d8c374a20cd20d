"""Templates of routes: Jinja2 in its sandbox, with an end to what a message can make of one.

The settings bring the template, a message the values in it. ``{{ payload * json.n }}`` is up to
whoever writes the settings; how much memory it takes must not be up to whoever sends ``n``.
"""

import functools
from typing import Any

__all__ = ["fill", "parse_template"]

MAX_CHARS = 256 * 1024
"""As much as a request may have; no route means to ask more."""
MAX_EXPONENT = 64


@functools.cache
def _sandbox() -> Any:
    # Here, as a node without routes needs no Jinja2 in its core.
    from jinja2 import StrictUndefined
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        """Jinja's own, in which a product can't become larger than a request."""

        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" and not abs(right) <= MAX_EXPONENT:
                raise SecurityError(f"{right} is too large an exponent")
            for several, times in ((left, right), (right, left)):
                if hasattr(several, "__len__") and len(several) * times > MAX_CHARS:
                    raise SecurityError(f"it would be longer than {MAX_CHARS}")
            return super().call_binop(context, operator, left, right)

    return Sandbox(undefined=StrictUndefined, autoescape=False)


@functools.lru_cache(maxsize=1024)
def _compile(source: str) -> Any:
    return _sandbox().from_string(source)


def parse_template(source: str) -> str:
    """Return a template as it is, if it is one.

    Raises:
        ValueError: it is none.
    """
    from jinja2 import TemplateError

    try:
        _compile(source)
    except TemplateError as exc:
        raise ValueError(f"not a template: {exc}") from exc
    return source


def fill(source: str, values: dict[str, Any]) -> str:
    """Fill in a template.

    Raises:
        Exception: whatever Python code may raise, as ``{{ 1 / json.n }}``; ``ValueError`` where it
            makes more text than a request may have.
    """
    pieces, length = [], 0
    for piece in _compile(source).generate(values):
        pieces.append(piece)
        length += len(piece)
        if length > MAX_CHARS:
            raise ValueError(f"it makes more than {MAX_CHARS} characters")
    return "".join(pieces)
