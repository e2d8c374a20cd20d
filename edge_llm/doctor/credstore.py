"""The service's secrets, where systemd keeps them, so that root can try what the service does."""

import os
from pathlib import Path

from edge_llm.doctor.machine import Machine
from edge_llm.settings import MqttSettings

__all__ = ["PLACE", "with_credentials"]

PLACE = Path("/etc/credstore")
"""Files of ``LoadCredential=`` in systemd/edge-llm.service."""


def with_credentials(mqtt: MqttSettings, machine: Machine) -> MqttSettings:
    """Return the settings with the password's file, where only systemd would hand it over."""
    file = machine.path(PLACE / "edge-llm.mqtt-password")
    is_set = mqtt.password is not None or mqtt.password_file is not None
    if is_set or "CREDENTIALS_DIRECTORY" in os.environ or not os.access(file, os.R_OK):
        return mqtt
    return mqtt.model_copy(update={"password_file": file})
