"""HTTP: OpenAI's dialect and the node's health, over the same engine as MQTT."""

from bridges.http.auth import hash_key, make_key
from bridges.http.server import PLUGIN, HttpServer, open_http

__all__ = ["PLUGIN", "HttpServer", "hash_key", "make_key", "open_http"]
