"""OpenAI's dialect: chat completions, legacy completions, responses, and the list of models."""

from bridges.http.openai.routes import ENDPOINTS, routes

__all__ = ["ENDPOINTS", "routes"]
