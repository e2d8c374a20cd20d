"""Ollama's dialect: chat and generate in lines of JSON, and the models there are."""

from bridges.http.ollama.routes import ENDPOINTS, routes

__all__ = ["ENDPOINTS", "routes"]
