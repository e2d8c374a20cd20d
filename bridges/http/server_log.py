"""What aiohttp itself has to say, without what it quotes.

Of a request that is no HTTP it logs the line that is wrong, with a traceback: with the key, if that
is the line. What is wrong with it is the sender's to know; that somebody sends such is enough here.
"""

import logging

import structlog
from aiohttp.http_exceptions import HttpProcessingError

__all__ = ["server_logger"]

log = structlog.get_logger()


class _WithoutQuotes(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        log.warning("request.rejected", code="broken_http", reason=type(error).__name__)
        return False


server_logger = logging.getLogger("bridges.http")
server_logger.addFilter(_WithoutQuotes())
