"""HTTP: OpenAI's dialect and the node's health, over the same engine as MQTT."""

from bridges.http.server import HttpServer, open_http

__all__ = ["HttpServer", "open_http"]
