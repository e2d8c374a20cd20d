"""Accounts at mosquitto, as its password file has them: a name, and a hash of a password."""

import re
import secrets
import subprocess
import tempfile
from pathlib import Path

from edge_llm.errors import ConfigurationError
from edge_llm.mosquitto.files import find_program, keeping_others_out, read, write

__all__ = ["PasswordFile", "explain_bad_name", "make_password"]

MAX_NAME_CHARS = 64
"""Leaves as much for the rest of a request's id (``topics.MAX_ID_CHARS``)."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

PASSWORD_CHARS = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Without those that look like others: passwords are typed from a screen into a sketch."""

PASSWORD_LEN = 20
"""116 bits; so it does not matter that mosquitto 2.0 hashes with 101 rounds only."""

TIMEOUT_S = 20.0


def explain_bad_name(name: str) -> str | None:
    """Say why an account can't have this name; None if it can.

    It is the first level of the topics that the account may use, and stands in a file of lines.
    """
    if len(name) > MAX_NAME_CHARS:
        return f"the name has more than {MAX_NAME_CHARS} characters"
    if "/" in name:
        return "the name is one level of a topic, so it can't have a '/'"
    if "+" in name or "#" in name:
        return "'+' and '#' stand for any name, so no name can have them"
    if not NAME.fullmatch(name):
        return "a name has letters, digits, '-', '_' and '.', and begins with a letter or digit"
    return None


def make_password() -> str:
    """Make a password at random that can be typed."""
    return "".join(secrets.choice(PASSWORD_CHARS) for _ in range(PASSWORD_LEN))


class PasswordFile:
    """One password file of mosquitto's; lines that are no account stay as they are."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def names(self) -> list[str]:
        """Return whose accounts it has, in its order; none if there is no file.

        Raises:
            ConfigurationError: it can't be read.
        """
        return [name for line in self._lines() if (name := _name(line))]

    def add(self, name: str, password: str, *, replace: bool = False) -> None:
        """Add an account; the broker knows it when it reads the file again.

        Args:
            name: of a device, a node or a person.
            password: which is hashed by mosquitto's own program, in the way of its version.
            replace: give an account that is there this password.

        Raises:
            ConfigurationError: the name can't be one or is taken, ``mosquitto_passwd`` is not
                here, or the file can't be written.
        """
        if reason := explain_bad_name(name):
            raise ConfigurationError(f"{name!r}: {reason}")
        with keeping_others_out(self.file.parent):
            lines = self._lines()
            if not replace and any(_name(line) == name for line in lines):
                raise ConfigurationError(
                    f"{name} has an account in {self.file}; --replace gives it a new password"
                )
            entry = _hash(name, password)
            self._write([*(line for line in lines if _name(line) != name), entry])

    def remove(self, name: str) -> None:
        """Take an account away.

        Raises:
            ConfigurationError: there is none, or the file can't be written.
        """
        with keeping_others_out(self.file.parent):
            lines = self._lines()
            if all(_name(line) != name for line in lines):
                raise ConfigurationError(f"{name} has no account in {self.file}")
            self._write([line for line in lines if _name(line) != name])

    def _lines(self) -> list[str]:
        try:
            return read(self.file).splitlines()
        except FileNotFoundError:
            return []

    def _write(self, lines: list[str]) -> None:
        write(self.file, "".join(f"{line}\n" for line in lines))


def _name(line: str) -> str | None:
    name, colon, _ = line.partition(":")
    return name.strip() if colon and not line.startswith("#") else None


def _hash(name: str, password: str) -> str:
    """Return an account's line.

    The password goes to the program by its input: in its arguments everyone here could read it.
    """
    program = find_program("mosquitto_passwd", "mosquitto")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "account"
        try:
            subprocess.run(
                [program, "-c", str(file), name],
                input=f"{password}\n{password}\n",
                capture_output=True,
                check=True,
                text=True,
                timeout=TIMEOUT_S,
            )
            return file.read_text().strip()
        except subprocess.CalledProcessError as exc:
            said = (exc.stderr or exc.stdout).strip()
            raise ConfigurationError(f"mosquitto_passwd failed: {said}") from exc
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise ConfigurationError(f"mosquitto_passwd failed: {exc}") from exc
