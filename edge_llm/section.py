"""A section of the settings: frozen, strict about names, each field with a line of its own."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from edge_llm.topics import explain_bad_filter

__all__ = ["Section", "TopicFilter", "TopicLevel", "TopicPrefix", "is_loopback"]

MAX_PREFIX_CHARS = 128
"""What comes behind it must have room in a topic, too."""


class Section(BaseModel):
    """Base of all sections; a key that does not exist is refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _topic_level(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
        raise ValueError("use 1 to 64 letters, digits, '-', '_' or '.'")
    return name


def _topic_prefix(prefix: str) -> str:
    if len(prefix) > MAX_PREFIX_CHARS:
        raise ValueError(f"use at most {MAX_PREFIX_CHARS} characters")
    for level in prefix.split("/"):
        _topic_level(level)
    return prefix


def _topic_filter(topic_filter: str) -> str:
    if reason := explain_bad_filter(topic_filter):
        raise ValueError(f"{topic_filter!r}: {reason}")
    return topic_filter


TopicLevel = Annotated[str, AfterValidator(_topic_level)]
"""A name that stands in topics and client ids, so it must be one plain level."""
TopicPrefix = Annotated[str, AfterValidator(_topic_prefix)]
"""One or several plain levels."""
TopicFilter = Annotated[str, AfterValidator(_topic_filter)]
"""What can be subscribed to."""


def is_loopback(host: str) -> bool:
    """Tell whether only programs of this machine can be behind a host, or reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
