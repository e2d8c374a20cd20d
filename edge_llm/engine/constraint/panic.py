"""Panics of llguidance, which is written in Rust: mistakes of its own that a schema has led to.

They come as a ``BaseException`` with a class that can't be imported, so that ``except Exception``
does not stop one: a request would end the worker process.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from edge_llm.errors import UnsupportedSchemaError

__all__ = ["refusing_panics"]

PANIC = ("pyo3_runtime", "PanicException")


@contextmanager
def refusing_panics(param: str | None = None) -> Iterator[None]:
    """Turn a panic into a refusal of the request.

    Raises:
        UnsupportedSchemaError: there was one.
    """
    try:
        yield
    except BaseException as exc:
        if (type(exc).__module__, type(exc).__name__) != PANIC:
            raise
        said = "the library that holds answers to a form failed on this one; say it in another way"
        message = f"{param}: {said}" if param else said
        raise UnsupportedSchemaError(message, param=param) from exc
