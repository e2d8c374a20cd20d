"""The log of programs that did not set one up: warnings, on stderr."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

__all__ = ["set_up_log_if_none"]

LEVELS = logging.getLevelNamesMapping()


def set_up_log_if_none() -> None:
    """Keep what a service tells its operator out of the output of somebody's program.

    Without this structlog prints all of it, on stdout. A program that configures structlog, before
    or after, has its own way.
    """
    if not structlog.is_configured():
        structlog.configure(
            processors=[_drop_unless_warning, *structlog.get_config()["processors"]],
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        )


def _drop_unless_warning(
    _logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if LEVELS.get(method.upper(), logging.ERROR) < logging.WARNING:
        raise structlog.DropEvent
    return event
