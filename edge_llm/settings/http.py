"""The HTTP bridge, and who may ask there."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from edge_llm.section import Section, is_loopback

__all__ = [
    "ApiKeySettings",
    "HttpSettings",
    "PageSettings",
]


class ApiKeySettings(Section):
    """Who may ask over HTTP; ``edge-llm api-key NAME`` makes one."""

    name: Annotated[str, Field(min_length=1)]
    """Whose it is, for the log."""
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    """Of the key, in hexadecimal; the key itself is kept nowhere."""
    requests_per_min: Annotated[float, Field(gt=0)] | None = None
    """Most requests in a minute, up to that many at once; any number if not given."""


class PageSettings(Section):
    """The page at ``/`` that shows how the node is doing."""

    enabled: bool = True
    """Serve it."""
    texts: bool = False
    """Also show what is asked and answered, to whoever may open the page."""


class HttpSettings(Section):
    """The HTTP bridge."""

    enabled: bool = True
    """Serve HTTP."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port; 0 takes a free one."""
    ollama_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """A second port for programs that know no other than Ollama's, 11434; all paths are on both."""
    model_aliases: tuple[str, ...] = ()
    """Further names that clients may ask for, with wildcards: ``["gpt-*"]``."""
    page: PageSettings = PageSettings()
    key: tuple[ApiKeySettings, ...] = ()
    """Keys, one of which each request must have: ``[[http.key]]``. Without any, everyone may ask
    who reaches the address."""
    allow_anonymous_on: str | None = None
    """To go without keys on an address that is not loopback, say that address a second time."""
    cors_origins: tuple[str, ...] = ()
    """Web pages that may ask from a browser: ``["https://example.org"]``, or ``["*"]``."""
    stop_timeout_s: Annotated[float, Field(ge=0)] = 10.0
    """How long an answer that has begun may take to end when the node is stopped, in seconds."""
    max_concurrent: Annotated[int, Field(ge=1, le=10_000)] = 256
    """Most requests in hand at a time; more are refused with 503."""
    overflow: Literal["error", "drop_oldest"] = "error"
    """What to do with a conversation that is longer than the context, if the request does not say:
    refuse it, or leave out its oldest turns, which the header ``X-Dropped-Messages`` counts."""

    @model_validator(mode="after")
    def _is_closed_or_meant_to_be_open(self) -> Self:
        if self.key or not self.enabled or is_loopback(self.host):
            return self
        if self.allow_anonymous_on != self.host:
            raise ValueError(
                f"whoever reaches {self.host or 'this machine'} could use the model: add a key "
                "('edge-llm api-key NAME' makes one), or, if that is what you want, say the "
                f'address once more: http.allow_anonymous_on = "{self.host}"'
            )
        return self
