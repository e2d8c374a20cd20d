"""Accounts at a broker."""

import subprocess
from pathlib import Path

from tests.programs import require_program

__all__ = ["Accounts"]


class Accounts:
    """A file of mosquitto's with names and passwords."""

    def __init__(self, file: Path, *names: str) -> None:
        self.file = file
        self._program = require_program("mosquitto_passwd", "mosquitto")
        self.file.touch(mode=0o600)
        for name in names:
            self.set(name, f"password of {name}")

    def set(self, name: str, password: str) -> None:
        """Add an account, or change its password."""
        command = [self._program, "-b", str(self.file), name, password]
        subprocess.run(command, check=True, capture_output=True)
