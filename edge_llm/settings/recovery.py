"""What is tried when the engine's process or the card fails, and how often."""

from typing import Annotated

from pydantic import Field

from edge_llm.section import Section

__all__ = ["RecoverySettings"]


class RecoverySettings(Section):
    """What is tried when the engine's process or the card fails.

    The steps are a new process, a reboot of the card, its driver, and to ask for a person.
    """

    failures_per_step: Annotated[int, Field(ge=1, le=100)] = 3
    """How many failures in a row make it climb one step."""
    interval_s: Annotated[float, Field(ge=15)] = 15.0
    """Least time between two attempts, in seconds. So the first one after a failure is made at
    once, if the latest one is longer ago."""
    max_per_hour: Annotated[int, Field(ge=1, le=120)] = 40
    """Most attempts in an hour."""
    max_resets_per_hour: Annotated[int, Field(ge=0, le=60)] = 6
    """Most of these that reset the card or its driver."""
    retry_after_s: Annotated[float, Field(ge=15)] = 120.0
    """When a person is needed: how long until it is tried again by itself, in seconds; doubles up
    to an hour."""
    card_reboot: bool = True
    """Whether the card may be rebooted, by ``axcl-smi reboot``."""
    card_reboot_timeout_s: Annotated[float, Field(gt=0, le=600)] = 90.0
    """How long that may take, in seconds; the driver itself gives up after 60."""
    settle_s: Annotated[float, Field(ge=0, le=300)] = 15.0
    """How long the card is left alone after a reset, in seconds."""
    driver_reload: tuple[str, ...] = ()
    """A program and its arguments that load the driver anew, as ``["/usr/bin/touch",
    "/run/edge-llm/reload-driver"]`` with the unit that waits for it; not tried if not given."""
    driver_reload_timeout_s: Annotated[float, Field(gt=0, le=600)] = 90.0
    """How long that may take, in seconds."""
    keepalive_s: Annotated[float, Field(ge=5)] = 60.0
    """How long the engine may be idle before it computes one token, to see whether it can."""
