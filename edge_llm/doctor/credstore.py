"""The service's secrets, where systemd keeps them, so that root can try what the service does."""

import os
from pathlib import Path
from typing import TypeVar

from edge_llm.doctor.machine import Machine
from edge_llm.settings import FleetSettings, MqttSettings

__all__ = ["PLACE", "with_credentials"]

Section = TypeVar("Section", MqttSettings, FleetSettings)

PLACE = Path("/etc/credstore")
"""Files of ``LoadCredential=`` in systemd/edge-llm.service."""


def with_credentials(section: Section, machine: Machine) -> Section:
    """Return settings with the password's file, where only systemd would hand it over."""
    name = "nats-password" if isinstance(section, FleetSettings) else "mqtt-password"
    file = machine.path(PLACE / f"edge-llm.{name}")
    is_set = section.password is not None or section.password_file is not None
    if is_set or "CREDENTIALS_DIRECTORY" in os.environ or not os.access(file, os.R_OK):
        return section
    return section.model_copy(update={"password_file": file})
