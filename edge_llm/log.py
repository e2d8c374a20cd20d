"""structlog, set up once: readable on a terminal, one JSON object a line otherwise."""

import logging
import sys

import structlog

from edge_llm.settings import LogSettings, Settings, find_exposures

__all__ = ["log_exposures", "set_up_log"]


def log_exposures(settings: Settings) -> None:
    """Warn of what the settings leave open."""
    for exposure in find_exposures(settings):
        structlog.get_logger().warning(exposure.event, reason=exposure.reason, do=exposure.do)


def set_up_log(settings: LogSettings) -> None:
    """Send our events, and the warnings of libraries, to stderr.

    Stderr leaves stdout to what a command prints: ``edge-llm ask`` can be piped.
    """
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    as_text = settings.format == "text" or (settings.format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
        if as_text
        else structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = (
        # With rich installed its own choice would show all local variables: what people said.
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if as_text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
